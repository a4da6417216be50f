# A label of a thing, built as everybody does it.
function profile::label(String $name, Variant[Integer, String] *$parts) >> String {
  $joined = $parts.map |$i, $p| { "${i}=${p}" }.join(',')
  "${name.capitalize}[${joined}]"
}
