define profile::many::leaf (Optional[String] $text = undef) {
  if $text { notify { "leaf ${title}": message => $text } }
}
