# Says which faster methods the worker's files put in the place of Puppet's, and
# how each template given as an argument would be run.
require 'json'
require 'set'
require 'socket'
worker = File.expand_path('../worker', __dir__)
%w[channel lifeline fork_server].each { |name| require File.join(worker, name) }
require 'puppet'
require File.join(worker, 'zygote')
Troupe::Zygote.preload

puts Puppet::Parser::TemplateWrapper.ancestors.first
puts Puppet::Util::Autoload.singleton_class.ancestors.first
ARGV.each do |file|
  compiled = Troupe::FasterTemplates.compiled(file, File.read(file))
  how = compiled.nil? ? 'evaluated' : "compiled with #{compiled.variables&.sort&.join(',') || 'all variables'}"
  puts "#{File.basename(file)} #{how}"
end
