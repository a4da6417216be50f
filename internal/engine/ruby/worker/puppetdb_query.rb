module Troupe
  # PuppetdbQuery puts our function puppetdb_query into the loader of Puppet's
  # own functions, so that it is found first even where PuppetDB's package is
  # installed.
  module PuppetdbQuery
    def create_puppet_system_loader
      loader = super
      name = Puppet::Pops::Loader::TypedName.new(:function, 'puppetdb_query')
      function = Puppet::Functions.create_function(:puppetdb_query) do
        dispatch :puppetdb_query do
          required_param 'Variant[String[1], Array[Data, 1]]', :query
        end

        def puppetdb_query(query)
          ::Troupe::Server.puppetdb(query)
        end
      end
      loader.set_entry(name, function.new(nil, loader.private_loader), __FILE__)
      loader
    end
  end
end
