# One resource of each kind that makes an agent talk to its server.
class site (
  String $message = 'hello',
) {
  $root = $facts['sandbox']

  file { "${root}/message":
    ensure  => file,
    content => "${message} ${trusted['certname']}\n",
  }

  file { "${root}/motd":
    ensure => file,
    source => ['puppet:///modules/site/motd.absent', 'puppet:///modules/site/motd'],
  }

  file { "${root}/tree":
    ensure  => directory,
    source  => 'puppet:///modules/site/tree',
    recurse => true,
  }

  file { "${root}/template":
    ensure  => file,
    content => epp('site/about.epp', { 'certname' => $trusted['certname'] }),
  }

  site_entry { 'first':
    ensure => present,
    path   => "${root}/entries",
    value  => $facts['site_custom'],
  }
}
