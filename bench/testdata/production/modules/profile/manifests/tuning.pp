# A file of many fragments, and a template in ERB.
define profile::tuning (Integer $workers) {
  concat { "/etc/tuning/${title}.conf": mode => '0640' }
  ['limits', 'cache', 'log'].each |$i, $part| {
    concat::fragment { "${title} ${part}":
      target  => "/etc/tuning/${title}.conf",
      order   => "${i}0",
      content => template('profile/tuning.erb'),
    }
  }
}
