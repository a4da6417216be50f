class profile::early {
  notify { 'before everything': message => "tier ${tier} of ${site}", withpath => true }
}
