# Climbs the ladder of a service with the resolver class of the Puppet library that is installed, and prints one line for
# each time: the targets in the order in which an agent would try them.
#
# usage: ruby climb.rb NAMESERVER PORT DOMAIN SERVICE TIMES
require 'resolv'
nameserver, port, domain, service, times = ARGV

# The library makes its resolver itself; only where that one asks is told here.
Resolv::DNS.singleton_class.prepend(Module.new do
  define_method(:new) { |*_| super(nameserver_port: [[nameserver, port.to_i]]) }
end)

require 'puppet'
begin
  require 'puppet/network/resolver' # agents before 6
rescue LoadError
  require 'puppet/http'
end

times.to_i.times do
  targets = []
  add = proc { |host, at| targets << "#{host}:#{at}" }
  if defined?(Puppet::HTTP::DNS)
    Puppet::HTTP::DNS.new.each_srv_record(domain, service.to_sym, &add) # a new one each time: it caches
  else
    Puppet::Network::Resolver.each_srv_record(domain, service.to_sym, &add)
  end
  puts targets.join(' ')
end
