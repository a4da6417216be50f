# Many plain resources: five for each person.
class profile::accounts (Integer $people) {
  range(1, $people).each |$n| {
    $name = sprintf('person%04d', $n)
    group { $name: gid => 20000 + $n }
    user { $name: uid => 20000 + $n, gid => $name, home => "/home/${name}", managehome => true, require => Group[$name] }
    file { ["/home/${name}", "/home/${name}/.ssh"]: ensure => directory, owner => $name, mode => '0700' }
    file { "/home/${name}/.ssh/authorized_keys": content => join(["# of ${name}", upcase($name)], "\n"), mode => '0600' }
  }
}
