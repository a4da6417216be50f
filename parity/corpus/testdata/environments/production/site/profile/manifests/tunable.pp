# A section of settings; each is a native resource with a composite namevar.
define profile::tunable (
  Hash   $values,
  String $prefix = "${title}-${name}",
) {
  $values.each |String $key, $value| {
    corpus_setting { "${title}:${key}":
      ensure => present,
      value  => $value ? { Array => $value.join(' '), default => $value },
      words  => [$key, $prefix],
    }
  }
}
