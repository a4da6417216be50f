# What the stories and the recordings apply. Every path lies below the fact `sandbox`, which the harness sets.
node default {
  include site
}
