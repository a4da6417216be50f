module Troupe
  # A Compilation turns requests into catalogs with the code of Puppet's own
  # compiler terminus, lib/puppet/indirector/catalog/compiler.rb: what it logs,
  # how it inlines files and how it filters is Puppet's business.
  class Compilation
    def initialize(environment, logs)
      @environment = environment
      @logs = logs
      # Its constructor would ask Facter for the server's facts; they come with each request.
      @terminus = Puppet::Resource::Catalog::Compiler.allocate
    end

    # Returns the head and the body of the answer; never raises what a manifest
    # can cause, except for the end of the memory. The head says "spent" if the
    # environment should not be used again.
    def compile(request)
      prepare(request)
      timings = Timings.new
      head, body = catalog(request, timings)
      [head.merge('event' => 'done', 'logs' => @logs.to_a, 'timings' => timings.to_h, 'spent' => Imports.failed), body]
    rescue StandardError, SystemExit, SystemStackError, ScriptError => e
      [{ 'event' => 'failed', 'message' => message(e), 'logs' => @logs.to_a, 'timings' => timings.to_h,
         'exit_called' => e.is_a?(SystemExit), 'spent' => Imports.failed }, '']
    ensure
      Server.forget
    end

    # Lets go of what the last compile left for its caller.
    def forget
      @logs.clear
    end

    private

    # State that one compile would leave to the next.
    def prepare(request)
      @logs.clear(request['log_level'] || Puppet[:log_level].to_s)
      Puppet::Util::Warnings.clear_warnings
      Imports.failed = false
      Server.forget
    end

    def catalog(request, timings)
      trusted = NodeBuilder.trusted(request)
      Puppet.override({ trusted_information: trusted, current_environment: @environment }, 'compiling a catalog') do
        node = timings.measure('node') { NodeBuilder.build(request, @environment, trusted) }
        catalog = timings.measure('compile') { @environment.with_text_domain { @terminus.send(:compile, node, options(request)) } }
        timings.measure('serialise') { answer(catalog, request) }
      end
    end

    def options(request)
      { transaction_uuid: request['transaction_uuid'], job_id: request['job_id'], code_id: request['code_id'],
        static_catalog: request['static'] ? 'true' : nil, checksum_type: request['checksum_types'] }
    end

    def answer(catalog, request)
      exported = Exported.of(catalog)
      role = Digest::SHA256.hexdigest(catalog.classes.sort.join(' '))
      catalog = @terminus.filter(catalog) unless request['unfiltered']
      format, body = render(catalog, request['rich'])
      [{ 'catalog_uuid' => catalog.catalog_uuid, 'version' => catalog.version.to_s, 'resources' => catalog.resources.size,
         'exported' => exported, 'format' => format, 'role' => role }, body]
    end

    # Strings that are not UTF-8 cannot be said in JSON. Puppet 7 then falls
    # back to PSON, which carries any bytes; Puppet 8 refuses by default.
    def render(catalog, rich)
      format = rich && @environment.rich_data? ? :rich_data_json : :json
      [format.to_s, catalog.render(format)]
    rescue Puppet::Network::FormatHandler::FormatError
      raise unless Puppet::Resource::Catalog.supported_formats.include?(:pson)

      ['pson', catalog.render(:pson)]
    end

    def message(error)
      case error
      when SystemExit then "the code of environment #{@environment.name} called exit(#{error.status}) while the catalog was compiled"
      else Text.clean(error.message)
      end
    end
  end
end
