class fault::syntax {
  notify { 'a' message => 'no colon' }
}
