# Entry of the first Ruby process, the template: it loads Puppet once and forks
# a zygote whenever the Go process asks for one.
#
# Descriptor 3 is the control socket, descriptor 4 the lifeline: a pipe whose
# other end only the Go process holds. The argument names the library's Ruby files
# in compiled form, which need not be there.

require 'json'
require 'set' # OpenVox 9 takes it for granted, Ruby before 3.2 does not
require 'socket'

require_relative 'compiled'
compiled = Troupe::Compiled.use(ARGV[0])

require_relative 'channel'
require_relative 'lifeline'
require_relative 'template'

channel = Troupe::Channel.new(UNIXSocket.for_fd(3))
lifeline = Troupe::Lifeline.new(IO.for_fd(4))

begin
  require 'puppet'
  require_relative 'zygote'
  Troupe::Zygote.preload
rescue LoadError, StandardError => e
  channel.write('event' => 'failed', 'error' => "#{e.message} (#{e.class}, #{e.backtrace&.first})")
  exit!(1)
end

# Generations that this code was never run with are refused by name rather than
# served with surprises.
if Puppet.version.to_i < 7
  channel.write('event' => 'failed', 'error' => "Puppet #{Puppet.version} is too old: the library must be version 7 or newer")
  exit!(1)
end

channel.write('event' => 'ready', 'puppet' => Puppet.version.to_s, 'ruby' => RUBY_VERSION, 'compiled' => compiled&.misses == 0)
lifeline.watch
Troupe::Template.new(channel, lifeline) { |control| Troupe::Zygote.serve(control, lifeline) }.run
exit!(0)
