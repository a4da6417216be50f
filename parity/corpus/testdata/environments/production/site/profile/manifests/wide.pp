# More parameters than a small map of Clojure has entries.
define profile::wide (
  Integer $zeta, Integer $alpha, Integer $eight, Integer $seven, Integer $six, Integer $five, Integer $four, Integer $two, Integer $one,
) {
  notify { "wide ${title}": message => "${zeta}${alpha}${eight}${seven}${six}${five}${four}${two}${one}" }
}
