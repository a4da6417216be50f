# Parses, and fails while it is evaluated.
node default {
  fail("no catalog for ${trusted['certname']}")
}
