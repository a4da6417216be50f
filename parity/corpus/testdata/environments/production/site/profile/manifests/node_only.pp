class profile::node_only inherits profile::node_params {
  Notify['of the parent'] { message => 'of the child', loglevel => notice }
  notify { "inherited ${inherited}": }
}
