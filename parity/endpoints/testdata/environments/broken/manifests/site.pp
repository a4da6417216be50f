# Does not parse.
node default {
  notify { 'never'
}
