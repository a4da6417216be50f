# Apache with virtual hosts, each of which is a concat of fragments from the module's templates.
class profile::web (Integer $sites) {
  class { 'apache': default_vhost => false, mpm_module => 'event' }
  include apache::mod::proxy, apache::mod::rewrite, apache::mod::headers, apache::mod::ssl
  range(1, $sites).each |$n| {
    apache::vhost { "site${n}.example.test":
      port       => '443',
      ssl        => true,
      docroot    => "/srv/www/site${n}",
      aliases    => [{ alias => '/static', path => "/srv/static/${n}" }],
      headers    => ['set X-Frame-Options DENY'],
      rewrites   => [{ comment => 'canonical name', rewrite_cond => ['%{HTTP_HOST} !^site'], rewrite_rule => ['^/(.*)$ /$1 [R=301,L]'] }],
      proxy_pass => [{ path => '/app', url => "http://127.0.0.1:${8000 + $n}/" }],
    }
    profile::tuning { "site${n}": workers => $n % 4 + 1 }
  }
}
