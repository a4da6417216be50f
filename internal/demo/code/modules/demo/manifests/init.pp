# One of everything that an agent asks a server for: a template fed by Hiera and
# by a custom fact (pluginsync), a recursive copy (file_metadatas), and a file
# whose content comes by its checksum (static catalog).
class demo (
  String               $root,
  String               $greeting,
) {
  file { $root:
    ensure => directory,
  }
  file { "${root}/greeting.txt":
    ensure  => file,
    content => epp('demo/greeting.epp', { 'greeting' => $greeting }),
  }
  file { "${root}/site.d":
    ensure  => directory,
    recurse => true,
    source  => 'puppet:///modules/demo/site.d',
  }
  file { "${root}/logo.bin":
    ensure => file,
    source => 'puppet:///modules/demo/logo.bin',
  }
}
