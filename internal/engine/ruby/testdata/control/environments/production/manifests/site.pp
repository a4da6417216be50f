stage { 'first': before => Stage['main'] }

node default {
  include fixture
}

node /^web\d+\.example\.test$/ {
  include fixture
  include fixture::web
  class { 'fixture::early': stage => 'first' }
}

node 'broken.example.test' {
  include fixture::no_such_class
}

node 'template.example.test' {
  notify { template('fixture/broken.erb'): }
}

node 'syntax.example.test' {
  include fixture::syntax
}

node 'trouble.example.test' {
  notify { 'trouble':
    message => fixture::trouble($facts['trouble']),
  }
}
