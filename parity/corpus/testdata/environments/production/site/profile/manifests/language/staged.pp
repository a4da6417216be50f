class profile::language::staged (String $text, $from_data = lookup('site_name')) {
  notify { "staged ${text}": message => $from_data }
  debug('not shown'); info('shown'); notice("said by ${name}"); warning("deprecated ${module_name}"); err('an error that is none')
}
