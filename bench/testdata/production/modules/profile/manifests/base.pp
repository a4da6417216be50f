# What every node has: about ten resources.
class profile::base (Hash $settings) {
  file { '/etc/motd': content => epp('profile/motd.epp', { settings => $settings }) }
  file { '/etc/issue': source => 'puppet:///modules/profile/issue' }
  package { ['curl', 'rsync', 'chrony']: ensure => installed }
  service { 'chrony': ensure => running, enable => true, require => Package['chrony'] }
}
