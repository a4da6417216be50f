require_relative 'library'

module Troupe
  # FasterAutoload loads a type, a provider or a function with require. Puppet
  # loads it and appends its name to $LOADED_FEATURES, after which Ruby looks up
  # the real path of every loaded file once more at the next require: with 1,500
  # files and 200 of them loaded so, that is half of a first compile.
  module FasterAutoload
    # Of Autoload.load_file in 7.23; 8.10 and OpenVox 9, and of mark_loaded.
    DIGESTS = %w[e88c25eb4702584e c5edd50824c5a513 28408335e321cc86].freeze

    def self.install
      autoload = Puppet::Util::Autoload.singleton_class
      autoload.prepend(self) if Library.unchanged?({ autoload => %i[load_file mark_loaded] }, DIGESTS)
    end

    def load_file(name, env)
      file = get_file(name.to_s, env)
      return super if file.nil? || file != File.expand_path(file) || $LOADED_FEATURES.include?(file)

      begin
        loaded[cleanpath(name).chomp('.rb')] = [file, File.mtime(file)]
        # False if the same file is known by another name, or is just being loaded.
        Kernel.require(file) || Kernel.load(file)
        true
      rescue SystemExit, NoMemoryError
        raise
      rescue Exception => e # rubocop:disable Lint/RescueException -- as Puppet does
        message = _('Could not autoload %{name}: %{detail}') % { name: name, detail: e }
        Puppet.log_exception(e, message)
        raise Puppet::Error, message, e.backtrace
      ensure
        $LOADED_FEATURES << file unless $LOADED_FEATURES.include?(file)
      end
    end
  end
end
