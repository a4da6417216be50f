# The role is a fact of the node: tiny, web or large.
include profile::base
case $facts['role'] {
  'web':   { include profile::web }
  'large': { include profile::web, profile::accounts }
  default: {}
}
