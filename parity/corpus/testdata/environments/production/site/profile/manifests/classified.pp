class profile::classified (
  String  $color  = 'blue',
  Array   $sizes  = [],
  Hash    $labels = {},
) {
  notify { "classified ${color}": message => [$sizes, $labels].flatten.join(' ') }
  file { '/etc/nested': content => "${nested}\n" }
}
