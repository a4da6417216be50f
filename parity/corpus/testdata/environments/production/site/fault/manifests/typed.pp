class fault::typed (Integer[1, 100] $port, Array[Integer] $list) { }
