type Profile::Site = Struct[{
  port               => Profile::Port,
  Optional['docroot'] => Stdlib::Absolutepath,
  Optional['aliases'] => Array[String[1]],
}]
