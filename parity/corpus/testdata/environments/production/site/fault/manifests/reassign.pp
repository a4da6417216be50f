define fault::reassign {
  $x = 1
  [1].each |$i| { $y = $i }
  if true { $x = 2 }
}
