# Values that JSON has no words for. Without rich data they become text, with a warning.
class profile::language::rich {
  $secret = Sensitive("secret of ${trusted['certname']}")
  notify { 'deferred': message => Deferred('join', [['a', Deferred('upcase', ['b'])], '-']) }
  notify { 'deferred variable': message => Deferred('$facts', []) }
  file {
    default: ensure => file;
    '/etc/secret': content => $secret, mode => '0600';
    '/etc/secret.epp': content => Sensitive(epp('profile/motd.epp', { name => 'x', settings => {}, secret => $secret }));
    '/etc/blob': content => binary_file('profile/blob.bin');
    '/etc/blob64': content => Binary('AAEC//5QTkc=', '%B');
    '/etc/blob.text': content => Binary('Grüße', '%s');
    '/etc/deferred': content => Deferred('inline_epp', ['<%= $x %>', { 'x' => Binary('eA==') }]);
    '/etc/static': source => 'puppet:///modules/profile/motd';
    '/etc/static.tree': ensure => directory, recurse => true, source => 'puppet:///modules/profile/tree', purge => true;
    '/etc/static.deep': ensure => directory, recurse => remote, recurselimit => 1, source => 'puppet:///modules/profile/tree', source_permissions => 'ignore';
    '/etc/static.link': ensure => link, target => '/etc/static';
  }
  profile::language::holder { 'rich':
    value => {
      'time'     => Timestamp('2024-02-29T12:34:56.789'),
      'span'     => Timespan('1-02:03:04.5'),
      'regexp'   => /a\/(b)+/,
      'version'  => SemVer('1.2.3-rc.1+build'),
      'range'    => SemVerRange('>=1.0.0 <2.0.0'),
      'type'     => Profile::Site,
      'ref'      => File['/etc/secret'],
      'class'    => Class['profile::language'],
      'types'    => Array[Variant[Integer[0, 5], Enum['a', 'b'], Pattern[/x/]], 1],
      'default'  => default,
      'undef'    => undef,
      'secret'   => $secret,
      'uri'      => URI('https://example.test:8140/a?b#c'),
      'float'    => 1.0e-10,
      'large'    => 9007199254740993,
      'nan'      => 0.1 + 0.2,
      1          => 'integer key',
      'nested'   => { 'binary' => Binary('AAE='), 'list' => [Timestamp(0), [undef, default]] },
    },
  }
  profile::language::holder { 'plain': value => [1, 2.5, 'three', true, false, undef, [], {}, '', ' '] }
}
