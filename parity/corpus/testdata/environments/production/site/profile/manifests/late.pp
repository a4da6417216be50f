class profile::late {
  contain profile::late::last
  Class['profile::base'] -> Class['profile::late']
}
