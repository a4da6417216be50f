# Collects what other nodes export, in every form that a query has.
class profile::peers {
  Host <<| title != $facts['networking']['fqdn'] and tag == 'fleet' |>>
  Profile::Check <<| port == 443 |>> { note => "seen by ${facts['networking']['hostname']}" }
  Profile::Check <<| tag == 'mail' or (port == 80 and title != 'web2') |>>
  Sshkey <<| |>>
  Profile::Wide <<| |>>
  File <<| tag == 'shared' and mode == '0600' |>> { mode => '0640', backup => false }
}
