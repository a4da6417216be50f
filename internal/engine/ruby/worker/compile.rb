# Writes all Ruby files that the template loads, and that Puppet may load later,
# in compiled form to stdout. It loads what boot.rb loads and runs nothing else.

require 'json'
require 'set'
require 'socket'

require_relative 'compiled'
Troupe::Compiled.follow

require_relative 'channel'
require_relative 'lifeline'
require_relative 'template'
require 'puppet'
require_relative 'zygote'

Troupe::Zygote.preload
Troupe::Compiled.write($stdout)
