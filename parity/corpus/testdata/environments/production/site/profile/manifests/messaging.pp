class profile::messaging {
  class { 'rabbitmq': delete_guest_user => true, config_variables => { 'hipe_compile' => true, 'frame_max' => 131072 } }
  rabbitmq_user { 'nova': admin => true, password => 'secret' }
  rabbitmq_vhost { '/nova': ensure => present }
  rabbitmq_user_permissions { 'nova@/nova': configure_permission => '.*', read_permission => '.*', write_permission => '.*' }
  include memcached
  include redis
  class { 'zookeeper': store_key => false }
  firewall { '100 amqp': dport => [5672, 15672], proto => 'tcp', action => 'accept' }
}
