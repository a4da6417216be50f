class profile::proxy {
  include haproxy
  haproxy::listen { 'stats': ipaddress => '127.0.0.1', ports => '8404', mode => 'http', options => { 'stats' => ['enable', 'uri /'] } }
  haproxy::balancermember { 'fallback': listening_service => 'web', server_names => 'fallback', ipaddresses => '127.0.0.9', ports => '80' }
  haproxy::listen { 'web':
    collect_exported => true,
    bind             => { '0.0.0.0:80' => [] },
    options          => { 'balance' => 'roundrobin', 'option' => ['httplog', 'forwardfor'] },
  }
  @@file { "/etc/shared/${facts['networking']['hostname']}":
    content => Sensitive("shared by ${facts['networking']['hostname']}"),
    mode    => '0600',
    tag     => 'shared',
  }
}
