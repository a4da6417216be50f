class profile::database {
  class { 'mysql::server':
    root_password           => 'geheim',
    remove_default_accounts => true,
    override_options        => { 'mysqld' => { 'max_connections' => '1024', 'skip-external-locking' => true } },
  }
  ['shop', 'blog'].each |$db| {
    mysql::db { $db: user => $db, password => "pw of ${db}", host => '%', grant => ['SELECT', 'UPDATE'] }
  }
  class { 'postgresql::globals': version => '15', manage_package_repo => false, encoding => 'UTF-8' }
  -> class { 'postgresql::server': listen_addresses => '*', postgres_password => 'x' }
  Integer[1, 4].each |$i| {
    postgresql::server::db { "db${i}": user => "user${i}", password => postgresql::postgresql_password("user${i}", "pw${i}") }
    postgresql::server::pg_hba_rule { "net ${i}": type => 'host', database => "db${i}", user => "user${i}", address => "192.0.2.${i}/32", auth_method => 'md5' }
  }
  postgresql::server::config_entry { 'work_mem': value => '16MB' }
}
