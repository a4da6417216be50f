require 'puppet/indirector/code'
require 'puppet/resource'

module Troupe
  # Exported gives the resources of a catalog that other nodes may collect, in
  # the form in which PuppetDB would store them (indirector/catalog/puppetdb.rb
  # of its terminus): rich values as strings, secrets left out, the namevar as
  # an alias.
  module Exported
    # Metaparameters whose order has no meaning.
    UNORDERED = %w[alias audit before check notify require subscribe tag].freeze

    module_function

    def of(catalog)
      catalog.resources.select(&:exported).map do |resource|
        data = Puppet.override({ stringify_rich: true }, 'exported resources') { resource.to_data_hash }
        { 'type' => data['type'], 'title' => Text.clean(data['title']), 'exported' => true,
          'virtual' => resource.virtual ? true : false, 'tags' => data['tags'].map { |tag| Text.clean(tag) },
          'file' => Text.clean(data['file']), 'line' => data['line'].to_i, 'parameters' => parameters(resource, data) }
      end
    end

    def parameters(resource, data)
      parameters = data['parameters'] || {}
      (data['sensitive_parameters'] || []).each { |name| parameters.delete(name) }
      aliases = aliases(resource)
      parameters['alias'] = aliases unless aliases.empty?
      UNORDERED.each { |name| parameters[name] = parameters[name].sort_by(&:to_s) if parameters[name].is_a?(Array) }
      parameters
    end

    def aliases(resource)
      return [] if resource.key_attributes.count > 1

      aliases = [resource[:alias]].flatten.compact
      type = resource.resource_type
      return aliases if type.respond_to?(:isomorphic?) && !type.isomorphic?

      name = resource.to_hash[resource.send(:namevar)]
      aliases << name unless name.nil? || name == resource.title || aliases.include?(name)
      aliases
    end
  end
end

# The terminus that answers collectors of exported resources, <<| |>>. Its name
# has to follow Puppet's scheme for termini.
class Puppet::Resource::Troupe < Puppet::Indirector::Code
  desc 'Asks the server for exported resources of other nodes.'

  # A collector asks again in every round of the evaluation. It then gets the
  # resources of the first round, which it knows by their collector_id.
  def search(request)
    scope = request.options[:scope]
    filter = expression(request.options[:filter])
    ::Troupe::Server.collected([request.key.to_s, filter, scope.object_id]) do
      ::Troupe::Server.exported(request.key.to_s, request.options[:host], filter).map { |found| resource(found, scope) }
    end
  end

  private

  def resource(found, scope)
    parameters = ordered(found['parameters'] || {}).map do |name, value|
      Puppet::Parser::Resource::Param.new(name: name, value: value)
    end
    type = Puppet::Pops::Evaluator::Runtime3ResourceSupport.find_resource_type(scope, found['type'])
    resource = Puppet::Parser::Resource.new(type, found['title'], parameters: parameters, scope: scope)
    # Tells apart the same resource found by two collectors and two resources of one title.
    resource.collector_id = "#{found['certname']}|#{found['type']}|#{found['title']}"
    resource
  end

  # The order in which PostgreSQL keeps the keys of a jsonb object, at every depth, which is how they come from PuppetDB.
  def ordered(value)
    case value
    when Hash then value.sort_by { |name, _| [name.bytesize, name] }.to_h { |name, inner| [name, ordered(inner)] }
    when Array then value.map { |inner| ordered(inner) }
    else value
    end
  end

  # Turns a collector's filter, [left, operator, right], into a query.
  def expression(filter)
    return nil if filter.nil?

    left, operator, right = filter
    case operator
    when 'and', 'or' then [operator, expression(left), expression(right)]
    when '==' then equal(left, right)
    when '!=' then ['not', equal(left, right)]
    else raise Puppet::Error, "Operator #{operator} in #{filter.inspect} not supported"
    end
  end

  def equal(field, value)
    case field
    when 'tag' then ['=', 'tag', value.downcase] # tags are lower case
    when 'title' then ['=', 'title', value]
    else ['=', ['parameter', field], value]
    end
  end
end
