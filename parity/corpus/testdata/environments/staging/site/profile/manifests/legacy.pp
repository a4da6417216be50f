class profile::legacy (String $text, $rest = { 'a' => undef, 'b' => default, 'c' => /r/ }) {
  notify { 'legacy': message => "${text} ${rest}" }
  concat { '/etc/legacy': }
  Integer[1, 40].each |$i| { concat::fragment { "${i}": target => '/etc/legacy', content => "${i}\n" } }
}
