module Troupe
  # ClassListing lists the classes of every manifest of an environment, as
  # lib/puppet/server/master.rb of the real server gathers them.
  class ClassListing
    def initialize(environment)
      @environment = environment
    end

    def to_a
      require 'puppet/info_service'
      found = Puppet::InfoService::ClassInformationService.new.classes_per_environment(@environment.name.to_s => manifests)
      found[@environment.name.to_s].map { |path, entry| sorted(entry.merge(path: path)) }
    end

    private

    def manifests
      manifest = @environment.manifest
      own = if manifest == Puppet::Node::Environment::NO_MANIFEST then []
            elsif File.directory?(manifest) then Dir.glob(File.join(manifest, '**/*.pp'))
            else File.exist?(manifest) ? [manifest] : []
            end
      own.concat(@environment.modules.flat_map(&:all_manifests)).uniq
    end

    # The real server sorts the keys of all maps (sort-nested-info-maps).
    def sorted(value)
      case value
      when Hash then value.map { |k, v| [Text.clean(k), sorted(v)] }.sort_by(&:first).to_h
      when Array then value.map { |v| sorted(v) }
      when String, Symbol then Text.clean(value)
      else value
      end
    end
  end
end
