# What every machine has.
class profile::base (
  Hash[String[1], Hash] $hosts,
  Hash                  $settings,
  String                $contact,
  Boolean               $manage_motd = true,
  Optional[String]      $unset       = undef,
  Array[Profile::Port]  $ports       = [22],
) {
  include stdlib
  $merged = lookup('profile::base::hosts', Hash, 'hash', {})
  create_resources('host', $merged, { ensure => present, tag => 'static' })

  @@host { $facts['networking']['fqdn']:
    ip           => $facts['networking']['ip'],
    host_aliases => [$facts['networking']['hostname']],
    tag          => ['fleet', "role_${role}"],
  }

  if $manage_motd {
    file { '/etc/motd':
      content => epp('profile/motd.epp', { name => $trusted['certname'], settings => $settings }),
      noop    => false,
    }
  }
  file {
    default:
      ensure  => file,
      require => File['/etc/motd'],
      ;
    ['/etc/contact', '/etc/contact.old']:
      content => "${contact}\n",
      ;
    '/etc/issue':
      source => ['puppet:///modules/profile/issue.none', 'puppet:///modules/profile/motd'],
      mode   => 'u=rw,go=r',
      ;
  }
  file { '/etc/profile.d/corpus.sh':
    content => $settings.map |$k, $v| { "# ${k}: ${v}" }.join("\n"),
    *       => { owner => 'root', audit => ['content', 'mode'] },
  }
  group { 'operators': gid => 900 }
  $operators = ['anna', 'björn', 'çelik']
  $operators.each |$index, $name| {
    @user { $name:
      uid    => 1000 + $index,
      groups => ['operators'],
      tag    => if $index == 0 { 'chief' } else { 'staff' },
    }
  }
  User <| tag == 'chief' or title == 'björn' |>
  realize User['çelik']

  cron { 'collect':
    command  => '/bin/true',
    minute   => fqdn_rand(60, 'collect'),
    hour     => [1, 13],
    schedule => 'night',
  }
  ensure_packages(['ca-certificates', 'less'])
  exec { 'refresh':
    command     => 'true',
    refreshonly => true,
    subscribe   => File['/etc/motd', '/etc/contact'],
    unless      => ['false', 'test -e /nowhere'],
  }
  ['kernel', 'net'].each |$section| {
    profile::tunable { $section: values => $settings[$section] }
  }
  Profile::Tunable <| |> -> Exec['refresh']
}
