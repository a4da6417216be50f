class profile::mail {
  include postfix
  include xinetd
  class { 'rsync::server': use_xinetd => false }
  rsync::server::module { 'mail': path => '/var/mail', comment => 'the mail', read_only => 'no', hosts_allow => ['192.0.2.0/24'] }
  @@profile::check { "smtp of ${facts['networking']['hostname']}": port => 25, tag => ['mail', 'important'] }
  @@sshkey { $facts['networking']['fqdn']: type => 'ssh-ed25519', key => "AAAA${facts['networking']['hostname']}", host_aliases => [$facts['networking']['ip']] }
  notify { 'compiled by': message => "${servername} ${serverip} ${serverversion} ${server_facts}" }
  mailalias { 'postmaster': recipient => ['anna', 'root'] }
}
