# A file whose old content goes to the server's filebucket.
node default {
  filebucket { 'main':
    path => false,
  }
  file { "${facts['sandbox']}/kept":
    content => "${facts['kept']}\n",
    backup  => 'main',
  }
}
