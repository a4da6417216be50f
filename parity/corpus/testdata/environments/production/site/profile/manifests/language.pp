# The language, where it reaches the catalog.
class profile::language (
  Any               $first,
  Sensitive[String] $token,
  Array             $ports,
  Integer           $count,
  Hash              $tree,
  String            $password,
  Optional[Integer] $absent = undef,
) {
  $local = 'local'
  $node = $facts['networking']['hostname']

  notify { 'merges': message => [$first, $ports, $count, $tree].map |$v| { "${v}" } }
  ['first', 'unique', 'hash', 'deep'].each |$merge| {
    $found = $merge ? {
      'unique' => lookup('classes', Array, $merge),
      default  => lookup('profile::language::tree', { merge => $merge }),
    }
    notify { "by ${merge}": message => String($found) }
  }
  notify { 'lookups': message => [
    lookup('nothing', { default_value => 'the default' }),
    lookup(['none', 'site_name']), lookup('profile::language::tree.deep'), lookup('aliased'),
    lookup('literal'), lookup('scoped'), lookup('numbers.large'), lookup('numbers.float'), lookup('numbers'),
    lookup('absent', Optional[String], 'first', undef),
    lookup('by_block') |$key| { "block of ${key}" },
  ].map |$v| { "${v}" } }

  contain profile::language::rich
  contain profile::language::resources
  include profile::language::texts
  @@profile::check { "of ${node}": port => 8080, tag => 'own' }
  Profile::Check <<| tag == 'own' and title == "of ${node}" |>>
}
