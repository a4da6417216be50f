# What octocatalog-diff compares with environment before. There is no $trusted in what it asks by the v4 API.
class shop(Array[String] $sorts = ['tea', 'cocoa'], Integer $shelves = 3) {
  file { '/srv/shop':
    ensure => directory,
    mode   => '0750',
  }
  $sorts.each |$sort| {
    file { "/srv/shop/${sort}":
      content => inline_epp("<%= \$sort %> on <%= \$facts['os']['name'] %>\n", { 'sort' => $sort }),
      require => File['/srv/shop'],
    }
  }
  shop::till { 'first': coins => { 'one' => 1, 'half' => 0.5, 'two' => 2 } }
}

define shop::till(Hash $coins, Boolean $open = true) {
  file { "/srv/shop/till-${title}":
    ensure  => bool2str_($open),
    content => $coins.map |$name, $worth| { "${name}=${worth}\n" }.join,
  }
}

function bool2str_(Boolean $value) >> String {
  if $value { 'file' } else { 'absent' }
}

node default {
  include shop
  @notify { 'virtual': } Notify <| |>
  exec { '/bin/true': refreshonly => true, timeout => 30, subscribe => Class['shop'] }
}
