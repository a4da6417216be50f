# Ways to say resources: virtual, overridden, tagged, related, generated.
class profile::language::resources {
  @file { ['/v/a', '/v/b']: content => 'virtual', tag => ['one', 'two'] }
  File <| tag == 'one' |> { owner => 'nobody' }
  @notify { 'never realized': }
  realize Notify['realized by reference']
  @notify { 'realized by reference': message => undef }

  $attributes = { mode => '0600', 'backup' => false }
  file { '/r/splat': * => $attributes }
  file { '/r/override': content => 'x' }
  File['/r/override'] { seltype => 'staff_t', backup => undef }
  File['/r/splat'] ~> Service['thing'] -> Package['last']
  service { 'thing': ensure => running, enable => true, hasstatus => false }
  package { 'last': ensure => '1.0', install_options => ['--a', { '-b' => 'c' }] }
  Package['last'] <- User['chosen']
  user { 'chosen': ensure => present, password => Sensitive('*'), groups => 'single' }
  notify { 'many requires': require => [File['/v/a', '/v/b'], [User['chosen']]], subscribe => Service['thing'] }

  tag 'extra', 'Second'
  if tagged('extra') { notify { 'is tagged': alias => 'other name' } }
  Notify['other name'] -> Notify['many requires']

  create_resources(profile::language::holder, { 'c1' => { value => 1 }, 'c2' => { value => { 'a' => 'b' } } }, { list => [1] })
  create_resources('@notify', { 'made virtual' => { message => 'x' } })
  Notify <| title == 'made virtual' or message == 'nobody' |>

  unless defined(Notify['late']) { notify { 'late': message => String(defined('profile::many'), '%y') } }
  resources { 'host': purge => true, noop => true }
  exec { "a command with 'quotes' \"and\" \\backslashes\\ \n newline \t tab \u{1F600}":
    path        => '/bin',
    command     => "true\u0000\u0001\u007f\u2028</script>",
    environment => ['A=1', 'B=ü'],
    returns     => [0, 2],
    timeout     => 0,
    onlyif      => [['a', 'b'], 'c'],
  }
  corpus_setting { 'top': value => true }
  corpus_setting { "main:multi\nline": value => 3.0, words => ['a'] }
  ['a', 'b'].each |$x| { ['c', 'd'].each |$y| { profile::language::holder { "${x}${y}": value => [$x, $y] } } }
  stage { 'own': require => Stage['main'], before => Stage['after'] }
  class { 'profile::language::staged': stage => own, text => 'set' }
}
