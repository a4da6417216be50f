# What octocatalog-diff compares with environment after. There is no $trusted in what it asks by the v4 API.
class shop(Array[String] $sorts = ['tea', 'coffee'], Integer $shelves = 3) {
  file { '/srv/shop':
    ensure => directory,
    mode   => '0755',
  }
  $sorts.each |$sort| {
    file { "/srv/shop/${sort}":
      content => inline_epp("<%= \$sort %> on <%= \$facts['os']['name'] %>\n", { 'sort' => $sort }),
      require => File['/srv/shop'],
    }
  }
  shop::till { 'first': coins => { 'one' => 1, 'half' => 0.5 } }
  notify { 'goes': message => 'only before' }
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
  @notify { 'virtual': }
  exec { '/bin/true': refreshonly => true, subscribe => Class['shop'] }
}
