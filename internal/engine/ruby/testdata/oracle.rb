# Compiles catalogs with the plain Puppet library in one process, through the
# indirection that Puppet's own server uses. The engine has to give the same
# bytes. The requests come as JSON on stdin; each answer is a line on stdout.
require 'json'
require 'set'
require 'puppet'
require 'puppet/indirector/code'

QUERY = JSON.parse($stdin.read)

class Puppet::Resource::Oracle < Puppet::Indirector::Code
  def search(request)
    QUERY['exported'].select { |r| r['type'] == request.key.to_s }.map do |r|
      type = Puppet::Pops::Evaluator::Runtime3ResourceSupport.find_resource_type(request.options[:scope], r['type'])
      # The keys of an object leave PuppetDB in PostgreSQL's order: by length, then by bytes.
      parameters = r['parameters'].sort_by { |n, _| [n.bytesize, n] }.map { |n, v| Puppet::Parser::Resource::Param.new(name: n, value: v) }
      found = Puppet::Parser::Resource.new(type, r['title'], parameters: parameters, scope: request.options[:scope])
      found.collector_id = "#{r['certname']}|#{r['type']}|#{r['title']}"
      found
    end
  end
end

module KnownResources
  def create_puppet_system_loader
    loader = super
    function = Puppet::Functions.create_function(:puppetdb_query) do
      def puppetdb_query(_query)
        QUERY['exported'].map { |r| r.slice('certname', 'title') }
      end
    end
    loader.set_entry(Puppet::Pops::Loader::TypedName.new(:function, 'puppetdb_query'), function.new(nil, loader.private_loader), __FILE__)
    loader
  end
end
Puppet::Pops::Loaders.prepend(KnownResources)

Puppet.settings.preferred_run_mode = :server
Puppet.initialize_settings(%w[confdir vardir codedir rundir logdir publicdir].flat_map { |d| ["--#{d}", QUERY['settings'][d]] } +
                           ['--environmentpath', QUERY['environmentpath'], '--basemodulepath', QUERY['basemodulepath'],
                            '--environment_timeout', 'unlimited', '--storeconfigs'] +
                           ['--external_nodes', QUERY['enc']], false)
Puppet.settings.initialize_app_defaults(
  Puppet::Settings.app_defaults_for_run_mode(Puppet::Util::RunMode[:server]).merge(name: 'server', facts_terminus: 'memory')
)
Puppet::ApplicationSupport.push_application_context(Puppet::Util::RunMode[:server])
Puppet::FileServing::Metadata.indirection.terminus_class = :file_server
Puppet::Node::Facts.indirection.terminus_class = :memory
Puppet::Node::Facts.indirection.cache_class = nil
Puppet::Resource::Catalog.indirection.terminus_class = :compiler
Puppet::Resource::Catalog.indirection.cache_class = nil
Puppet::Resource.indirection.terminus_class = :oracle

terminus = Puppet::Resource::Catalog.indirection.terminus
terminus.instance_variable_set(:@server_facts, { 'serverversion' => Puppet.version.to_s }.merge(QUERY['server_facts']))
environment = Puppet.lookup(:environments).get!(QUERY['environment'])

QUERY['requests'].each do |q|
  Puppet::Node.indirection.terminus_class = q['enc'] ? :exec : :plain
  trusted = Puppet::Context::TrustedInformation.new('remote', q['certname'], q['extensions'], {})
  Puppet.override(trusted_information: trusted, current_environment: environment) do
    facts = Puppet::Node::Facts.from_data_hash('name' => q['certname'], 'values' => q['facts'])
    catalog = Puppet::Resource::Catalog.indirection.find(
      q['certname'], environment: environment, facts: facts, facts_format: 'application/json', code_id: QUERY['code_id'],
                     static_catalog: q['static'] ? 'true' : nil, checksum_type: 'sha256.md5'
    )
    puts catalog.render(q['rich'] ? :rich_data_json : :json)
  rescue StandardError => e
    puts({ 'error' => e.message }.to_json)
  end
end
