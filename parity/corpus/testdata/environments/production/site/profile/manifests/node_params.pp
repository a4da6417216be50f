class profile::node_params {
  $inherited = 'value'
  notify { 'of the parent': message => 'of the parent' }
}
