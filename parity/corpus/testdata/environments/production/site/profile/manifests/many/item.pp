define profile::many::item (Integer $index, Hash $data = { 'a' => [1, { 'b' => undef }] }) {
  file { "/srv/many/${index}": content => "${title} ${data}", before => Exec["after ${index}"] }
  exec { "after ${index}": command => 'true', refreshonly => true, tag => "group${$index % 7}" }
  profile::many::leaf { "${index}a": text => inline_epp('<%= $i %> of <%= $t %>', { i => $index, t => $title }) }
  profile::many::leaf { "${index}b": }
}
