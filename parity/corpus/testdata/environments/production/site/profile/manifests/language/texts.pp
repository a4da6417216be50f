# Expressions and functions whose result is text.
class profile::language::texts {
  $list = ['b', 'a', 'ü', '10', '9']
  $hash = { 'z' => 1, 'a' => { 'b' => [1, { 'c' => 'd' }] }, 3 => undef }
  case $facts['os']['release']['full'] {
    /^(\d+)\.(\d+)/: { $version = "${1}-${2}" }
    default: { $version = "other ${0}" }
  }
  $if = if 'abcd' =~ /(b)(c)/ { "${0}${1}" } else { 'none' }
  $results = {
    'version'  => $version,
    'if'       => $if,
    'filter'   => $list.filter |$x| { $x =~ /\d/ },
    'reduce'   => $list.reduce |$m, $x| { "${m}+${x}" },
    'map'      => $hash.map |$k, $v| { [$k, $v] },
    'slice'    => $list.slice(2),
    'keys'     => $hash.reduce([]) |$m, $kv| { $m + [$kv[0]] },
    'group'    => $list.group_by |$x| { $x.length },
    'tree'     => Array($hash.tree_each({ include_containers => false })),
    'sort'     => $list.sort |$a, $b| { compare($a, $b) },
    'dig'      => $hash.dig('a', 'b', 1, 'c'),
    'get'      => "${get($facts, 'os.name')} ${getvar('facts.os.family')} ${hash['a']['b'][0]}",
    'step'     => Integer[1, 10].step(3).map |$x| { $x * 2 },
    'string'   => [sprintf('%05.2f|%-6s|%x|%+d', 3.14159, 'ab', 255, 7), String(255, '%#x'), String($hash, '%p'), "${[1, [2, undef]]}"],
    'convert'  => [Integer('0x1F', 16), Float('1.5e3'), Numeric('0b11'), Boolean('yes'), Array({ 'a' => 1 }), Hash([['a', 1]]), Tuple('ab')[0]],
    'match'    => ['abc-123'.match(/([a-z]+)-(\d+)/), 'x'.match(/y/), ['a1', 'b'].match(/\d/)],
    'split'    => ['a,b;c'.split(/[,;]/), 'a.b'.split('[.]'), regsubst('aXbX', 'X', '-', 'G'), 'Ünïcode'.downcase, 'straße'.upcase],
    'semver'   => [SemVer('1.2.3') < SemVer('1.10.0'), versioncmp('1.9', '1.10'), '1.0' == '1.00', 1 == 1.0, 'A' == 'a', 'a' in ['A'], 7 / 2, -7 % 3, 7.0 / 2, 1 << 4],
    'heredoc'  => @("END"/tn$L),
      tab\t and ${facts['os']['name']} \
      joined \$
      |- END
    'raw'      => @(RAW:pp),
      notice('$not ${interpolated}') # \t
      | RAW
    'types'    => [type(1), type('a'), type([1, 'b'], generalized), 5 =~ Integer[1, 4], { 'port' => 80 } =~ Profile::Site, Profile::Port],
    'server'   => [$server_facts['servername'] == $servername, $server_facts['environment'], $servername =~ String, $environment],
    'trusted'  => [$trusted['authenticated'], $trusted['hostname'], $trusted['domain'], $trusted['extensions'], $trusted['external']],
    'old'      => [old_sum(1, ['2', 3]), fqdn_rand(1000, 'seed'), md5('ü'), sha256('ü'), generate('/bin/echo', 'generated'), file('profile/motd'), inline_template('<%= @list.first %> <%= scope.lookupvar("site") %>')],
    'stdlib'   => [merge({ 'a' => 1 }, { 'b' => 2 }), deep_merge({ 'a' => { 'b' => 1 } }, { 'a' => { 'c' => 2 } }), to_json({ 'b' => [1, 'ü'] }), to_yaml({ 'b' => [1, 'ü'] }), pick('', 'x'), range('a', 'e'), unique(['a', 'a']), shell_escape("it's"), strftime(Timestamp('2024-02-29T00:00:00'), '%F', 'UTC'), seeded_rand(100, 'x'), base64('encode', 'ü'), hash(['a', 1]), delete_undef_values({ 'a' => undef }), loadyaml('/nonexistent', { 'x' => 1 })],
    'type'     => Object[{ name => 'Corpus::Point', attributes => { 'x' => Integer } }] =~ Type,
    'label'    => profile::label('ßlabel', 80, 'http'),
    'break'    => $list.map |$x| { if $x == 'ü' { break() } if $x == 'a' { next('skipped') } $x },
    'undef'    => "[${undef}] [${facts['nothing']}] ${hash[3]} ${$trusted['extensions']['pp_role']}",
  }
  $results.each |$name, $value| { notify { "text ${name}": message => String($value) } }
  file { '/etc/old': content => template('profile/old.erb', 'profile/inner.erb') }
}
