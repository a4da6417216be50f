# Comes from basemodulepath.
class shared {
  notify { "shared from ${module_name}": }
}
