module Troupe
  # Imports notices when classes and defines of a manifest could not be taken into
  # the environment. Some of them may be there by then, others are never looked
  # for again: the next compile would say something else, or miss a class and
  # compile. A server without a cache of environments, which is Puppet's default,
  # has a new one for each compile; here, who sees this gets a new one.
  module Imports
    class << self
      # Whether an import failed since this was set to false.
      attr_accessor :failed
    end

    private

    def load_files(*)
      super
    rescue StandardError
      Imports.failed = true
      raise
    end
  end
end
