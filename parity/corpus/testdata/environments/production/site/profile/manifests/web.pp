class profile::web {
  class { 'apache':
    default_vhost     => false,
    mpm_module        => 'event',
    server_signature  => 'Off',
    log_level         => 'warn',
    purge_configs     => false,
    apache_version    => '2.4',
  }
  ['alias', 'rewrite', 'headers', 'ssl', 'proxy', 'proxy_http'].each |$m| { include "apache::mod::${m}" }
  $number = Integer($facts['networking']['hostname'].regsubst('\D', '', 'G'))
  Integer[1, 6 + $number].each |$i| {
    apache::vhost { "site${i}.${facts['networking']['hostname']}.example.test":
      port            => 80,
      docroot         => "/srv/www/site${i}",
      serveraliases   => ["www.site${i}.example.test"],
      custom_fragment => "# ${i}",
      directories     => [{ path => "/srv/www/site${i}", require => 'all granted', options => ['-Indexes'] }],
      headers         => ['set X-Frame-Options DENY'],
      rewrites        => [{ comment => 'to TLS', rewrite_cond => ['%{HTTPS} off'], rewrite_rule => ["^/(.*)\$ https://%{HTTP_HOST}/\$1 [R=301,L]"] }],
    }
  }
  @@profile::check { $facts['networking']['hostname']:
    port  => $number ? { 1 => 443, default => 80 },
    extra => { 'system' => $facts['os']['name'], 'list' => [1, [2, 'ü', { 'bb' => 1, 'a' => 1.5 }]] },
    tag   => 'web',
  }
  @@profile::wide { $facts['networking']['hostname']:
    zeta => 1, alpha => 2, eight => 3, seven => 4, six => 5, five => 6, four => 7, two => 8, one => 9,
  }
  @@haproxy::balancermember { $trusted['certname']:
    listening_service => 'web',
    server_names      => $trusted['certname'],
    ipaddresses       => $facts['networking']['ip'],
    ports             => '80',
    options           => 'check',
  }
  concat { '/etc/web.list': ensure => present, ensure_newline => true, warn => true }
  ['b', 'a', 'ä'].each |$part| {
    concat::fragment { "part ${part}": target => '/etc/web.list', content => "part ${part}", order => "1${part}" }
  }
}
