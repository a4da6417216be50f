# Defaults of the whole site.
File {
  owner => 'root',
  group => 'root',
  mode  => '0644',
}

Exec { path => ['/bin', '/usr/bin', '/sbin', '/usr/sbin'] }

stage { 'before': before => Stage['main'] }
stage { 'after': require => Stage['main'] }

schedule { 'night':
  range  => '2 - 4',
  period => daily,
  repeat => 1,
}
