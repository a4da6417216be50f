# Tells where an agent of the installed Puppet library would go, by letting its own classes choose while no server is ever
# good: every contact is written down and then fails, in each of several ways. Prints one line of JSON for each folder
# with a puppet.conf.
#
# usage: ruby routes.rb CERTNAME NAMESERVER PORT CONFDIR...
require 'json'
require 'resolv'
certname, nameserver, port, *confdirs = ARGV

# The library makes its resolver itself; only where that one asks is told here.
Resolv::DNS.singleton_class.prepend(Module.new do
  define_method(:new) { |*_| super(nameserver_port: [[nameserver, port.to_i]]) }
end)

require 'puppet'
require 'puppet/configurer'
require 'puppet/file_serving/metadata'

FAILURES = {
  'refused' => Errno::ECONNREFUSED, 'silent' => Net::OpenTimeout, 'unresolved' => SocketError,
  'mistrusted' => defined?(Puppet::SSL::SSLError) ? Puppet::SSL::SSLError : Puppet::Error
}.freeze

$contacts = []

def sessions(failure)
  client = Puppet::HTTP::Client.new
  kind = 'connect'
  client.define_singleton_method(:resolve_ssl_context) { |*| nil }
  client.define_singleton_method(:get) do |*args, **opts|
    kind = 'status'
    super(*args, **opts)
  ensure
    kind = 'connect'
  end
  # Below this, the library deals with the real errors of a connection.
  client.instance_variable_get(:@pool).define_singleton_method(:with_connection) do |site, _|
    $contacts << "#{kind} #{site.host}:#{site.port}"
    raise failure, 'of this test'
  end
  %i[ca puppet fileserver report].to_h do |service|
    $contacts = []
    begin
      client.create_session.route_to(service)
    rescue Puppet::HTTP::RouteError, Puppet::SSL::SSLError, ArgumentError # the last of OpenVox 9 without the setting server
      nil
    end
    [service, $contacts]
  end
end

# Agents before 6 choose for each request, and from server_list when a run begins.
def requests(failure)
  Puppet::Network::HttpPool.define_singleton_method(:http_ssl_instance) do |host, at, *_|
    $contacts << "status #{host}:#{at}"
    raise failure, 'of this test'
  end
  listed = !Puppet.settings[:server_list].empty?
  {
    ca: Puppet::SSL::Certificate, puppet: Puppet::Resource::Catalog,
    fileserver: Puppet::FileServing::Metadata, report: Puppet::Transaction::Report
  }.to_h do |service, model|
    $contacts = []
    terminus = model.indirection.terminus(:rest).class
    ask = proc do
      begin
        model.indirection.request(:find, 'x', nil).do_request(terminus.srv_service, terminus.server, terminus.port) do |r|
          $contacts << "request #{r.server}:#{r.port}"
          raise failure, 'of this test'
        end
      rescue failure
        nil
      end
    end
    if service != :ca && listed
      Puppet.override(server: 'chosen', serverport: 1) { ask.call }
      Puppet::Configurer.new.send(:find_functional_server) if $contacts.reject! { |c| c.start_with?('request chosen:') }
    else
      ask.call
    end
    [service, $contacts]
  end
end

# Loading the library takes longer than all the rest, and it reads its settings once in a process: so one child for each.
$stdout.sync = true
confdirs.each do |confdir|
  child = fork do
    Puppet.initialize_settings(['--confdir', confdir, '--vardir', "#{confdir}/var", '--certname', certname])
    Puppet.settings.preferred_run_mode = :agent
    settings = %i[http_connect_timeout http_read_timeout http_keepalive_timeout runinterval runtimeout splay usecacheonfailure
                  ignore_plugin_errors certificate_revocation crl_refresh_interval ca_refresh_interval hostcert_renewal_interval
                  waitforcert digest_algorithm].to_h do |name|
      [name, Puppet.settings.setting(name) ? Puppet[name].to_s : '']
    end
    routes = FAILURES.transform_values { |failure| defined?(Puppet::HTTP::Session) ? sessions(failure) : requests(failure) }
    puts "\n#{JSON.generate('version' => Puppet.version, 'routes' => routes, 'settings' => settings)}"
  end
  Process.wait(child)
  abort "settings of #{confdir}: #{$?}" unless $?.success?
end
