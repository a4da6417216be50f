node 'mail1.example.test', 'mail2.example.test' {
  $role = 'mail'
  include role
}

node /^mail(\d+)\.(.+)$/ {
  $role = 'mail'
  include role
  notify { "mail server number ${1} of ${2}": loglevel => debug }
}

node /^broken-(.+)\.example\.test$/ {
  $role = 'broken'
  fault { $1: }
}

node default {
  if $role == undef { fail("nobody says what ${trusted['certname']} is for") }
  if $role == 'language' { warning("the compiler speaks to ${facts['networking']['hostname']}") }
  include role
}
