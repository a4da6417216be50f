# Everything that a node is: the classes that the levels of Hiera name.
class role {
  $classes = lookup('classes', Array[String[1]], 'unique')
  $classes.include
  class { 'profile::early': stage => before }
  contain profile::late
}
