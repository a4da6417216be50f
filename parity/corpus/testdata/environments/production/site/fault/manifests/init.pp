# Compiles that fail, one per title.
define fault {
  case $title {
    'unknown-class': { include no::such::class }
    'duplicate-declaration': { file { '/a': } file { '/a': } }
    'missing-key': { notify { lookup('no.such.key'): } }
    'type-mismatch': { class { 'fault::typed': port => 'eighty', list => [1, 'b'] } }
    'cyclic-include': { include fault::cycle }
    'epp-error': { notify { epp('fault/broken.epp'): } }
    'erb-error': { notify { template('fault/broken.erb'): } }
    'failing-function': { fault::explode('now') }
    'fail': { fail("the fault ${title}", 'of', 2) }
    'unknown-function': { no_such_function(1) }
    'unknown-resource': { no_such_type { 'x': } }
    'unknown-parameter': { file { '/a': nonsense => 1 } }
    'missing-parameter': { class { 'fault::typed': list => [] } }
    'reassignment': { fault::reassign { 'x': } }
    'bad-relation': { notify { 'a': } -> File['/nowhere'] }
    'ruby-error': { fault::explode(undef) }
    'syntax-error': { include fault::syntax }
    'assert-type': { assert_type(Integer[1, 3], 'four') }
    'undefined-override': { File['/never'] { mode => '0600' } }
    'unknown-variable-operator': { $x = 1 + undef }
    'missing-template': { notify { template('fault/none.erb'): } }
    'missing-file': { notify { file('fault/none', '/nonexistent/none'): } }
    'bad-regex': { $x = 'a' =~ Regexp['('] }
    'frozen': { $x = [1] $y = $x[0] + 'a' }
    'virtual-missing': { realize File['/unknown'] }
    'stage-missing': { class { 'fault::typed': port => 1, list => [], stage => 'nowhere' } }
    'bad-data': { notify { lookup('classes', Integer): } }
    'collector-type': { Nosuch <| title == 'x' |> }
    'missing-source': { file { '/a': source => 'puppet:///modules/fault/not_there' } }
    'deep-interpolation': { fault::nest { 'x': depth => 3 } }
    default: { fail("unknown fault ${title}") }
  }
}
