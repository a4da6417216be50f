# A role of size: defines in defines, created in a loop.
class profile::many (Integer $count = 400) {
  $count.each |$i| { profile::many::item { "item ${i}": index => $i } }
  $long = Array(Integer[1, 12]).reduce('0123456789 äöü ☃ ') |$memo, $_i| { "${memo}${memo}" }
  file { '/srv/many/long': content => $long }
  File <| tag == 'profile::many::item' and title == '/srv/many/7' |> { mode => '0755' }
}
