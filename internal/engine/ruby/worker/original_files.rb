module Troupe
  # OriginalFiles lets the metadata that is inlined in static catalogs describe
  # the operator's files rather than their copies in the snapshot: the times, and
  # with source_permissions also owner, group and mode. An agent that asks for
  # file_metadata is told the same.
  module OriginalFiles
    Stat = Struct.new(:uid, :gid, :mode, :ftype)

    private_constant :Stat

    def collect_stat(path)
      copy = super
      return copy if [nil, :ignore].include?(source_permissions)

      original = Server.attributes(path, links == :follow)
      return copy if original.nil?

      stat = Stat.new(original['owner'], original['group'], original['mode'], copy.ftype)
      Puppet::FileServing::Metadata::MetaStat.new(stat, source_permissions)
    end

    def ctime_file(path)
      original_time(path, 'changed') || super
    end

    def mtime_file(path)
      original_time(path, 'modified') || super
    end

    private

    def original_time(path, which)
      original = Server.attributes(path, true)
      original && Time.at(original[which])
    end
  end
end
