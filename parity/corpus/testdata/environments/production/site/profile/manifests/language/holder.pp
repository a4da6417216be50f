define profile::language::holder (Any $value, Any $absent = undef, Any $list = []) {
  notify { "holder ${title}": message => "${value}", noop => true }
}
