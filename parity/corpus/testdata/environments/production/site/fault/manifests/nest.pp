define fault::nest (Integer $depth) {
  if $depth == 0 { fail("at the bottom of ${name}") }
  fault::nest { "${title}.${depth}": depth => $depth - 1 }
}
