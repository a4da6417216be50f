module Troupe
  # NodeBuilder makes the node of a request, with the facts, the classification
  # and the trusted data in the order in which Puppet's own termini add them.
  module NodeBuilder
    SERVER_FACTS = %w[pe_serverversion serverversion servername serverip serverip6].freeze

    module_function

    def build(request, environment, trusted)
      # As Puppet::Node::Plain and Puppet::Node::Exec do it.
      node = Puppet::Node.new(request['certname'])
      node.parameters = request['parameters'] if request['parameters']
      node.classes = request['classes'] if request['classes']
      node.environment = environment
      node.fact_merge(facts(request))

      node.add_server_facts(server_facts(request))
      node.trusted_data = trusted.to_h
      node
    end

    def facts(request)
      Puppet::Node::Facts.from_data_hash('name' => request['certname'], 'values' => request['facts'] || {},
                                         'timestamp' => request['facts_timestamp'])
    end

    # The order is that of Puppet's set_server_facts: it shows in $server_facts.
    # The environment is not among them, as add_server_facts appends it and warns
    # of whatever the node has already.
    def server_facts(request)
      given = { 'serverversion' => Puppet.version.to_s }.merge(request['server_facts'] || {}).reject { |name, _| name == 'environment' }
      SERVER_FACTS.filter_map { |name| [name, given[name]] if given[name] }.to_h.merge(given)
    end

    # Hostname and domain follow from the certname. What the server knows about
    # the node from elsewhere is frozen like the rest of $trusted. A certname without
    # authentication is what a service says that compiles for others (v4 catalogs).
    def trusted(request)
      data = request['trusted']
      Puppet::Context::TrustedInformation.new(data['authenticated'], data['certname'], data['extensions'],
                                              deep_freeze(data['external'] || {}))
    end

    def deep_freeze(value)
      case value
      when Hash then value.each { |k, v| [deep_freeze(k), deep_freeze(v)] }
      when Array then value.each { |v| deep_freeze(v) }
      end
      value.freeze
    end
  end
end
