class profile::late::last {
  notify { 'at last': tag => ['end', 'Ünicode'] }
  tag('tagged', 'late')
}
