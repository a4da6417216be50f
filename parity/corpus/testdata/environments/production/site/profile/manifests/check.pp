define profile::check (
  Profile::Port        $port,
  Optional[String]     $note  = undef,
  Variant[Array, Hash] $extra = [],
) {
  file { "/etc/checks/${title}.cfg":
    content => "${profile::label($title, $port)} ${extra} ${note}\n",
  }
}
