type Profile::Port = Variant[Integer[1, 65535], Enum['http', 'https']]
