require 'delegate'
require 'shellwords'

module Troupe
  # Settings sets Puppet up as the library of one server for one environment.
  module Settings
    # What the server decides: an operator's setting of these is not passed on.
    OWN = %w[environmentpath basemodulepath environment_timeout storeconfigs storeconfigs_backend
             node_terminus catalog_terminus catalog_cache_terminus node_cache_terminus].freeze

    RESOLV_CONF = '/etc/resolv.conf'.freeze

    # How many seconds name servers get to say the domain of this machine.
    DOMAIN_LIMIT = 1

    module_function

    # Has Facter look for the machine's domain, which is $settings::srv_domain, before any compile needs it: without name servers that
    # takes 5 s or more, in every zygote again. What Facter found its copies in forked processes know. When nobody answers in time, it is
    # the domain of resolv.conf, as Facter would say in the end.
    def learn_domain
      asked = Thread.new { Puppet::Settings.domain_fact }
      asked.report_on_exception = false # the compile that needs it fails in the same words
      return if asked.join(DOMAIN_LIMIT)

      text = File.readable?(RESOLV_CONF) ? File.read(RESOLV_CONF) : ''
      @domain = text[/^domain\s+(\S+)/, 1] || text[/^search\s+(\S+)/, 1] || ''
    rescue StandardError
      nil
    end

    # Initializes the library. Returns the names of settings that this generation of
    # Puppet does not have.
    def apply(open)
      Puppet.settings.preferred_run_mode = :server
      arguments, unknown = arguments_for(open)
      # puppet.conf is read by the Go process, which passes on what it says.
      Puppet.initialize_settings(arguments, false)
      serve
      Puppet.mark_context(:version)
      enter
      unknown
    end

    # Turns a library that has served one version to another place.
    def move(open)
      Puppet.rollback_context(:version)
      Puppet.mark_context(:version)
      Puppet[:environmentpath] = open['environmentpath']
      Puppet[:basemodulepath] = Array(open['basemodulepath']).join(':')
      enter
    end

    def enter
      Puppet::ApplicationSupport.push_application_context(Puppet::Util::RunMode[:server], :not_required)
    end

    def arguments_for(open)
      unknown = []
      known = @domain ? { 'srv_domain' => @domain } : {}
      wanted = known.merge(open['settings'].reject { |name, _| OWN.include?(name) }).merge(
        'environmentpath' => open['environmentpath'], 'basemodulepath' => Array(open['basemodulepath']).join(':'),
        'environment_timeout' => 'unlimited', 'storeconfigs' => 'true'
      )
      arguments = wanted.flat_map do |name, value|
        setting = Puppet.settings.setting(name.to_sym)
        unknown << name if setting.nil?
        setting.nil? ? [] : argument(setting, name, value)
      end
      [arguments, unknown]
    end

    # "--name false" would turn a boolean setting on.
    def argument(setting, name, value)
      return ["--#{name}", value] unless setting.is_a?(Puppet::Settings::BooleanSetting)

      [%w[true yes 1].include?(value.downcase) ? "--#{name}" : "--no-#{name}"]
    end

    # What lib/puppet/server/puppet_config.rb of the real server sets, so that
    # catalogs and $settings agree with it.
    def serve
      defaults = Puppet::Settings.app_defaults_for_run_mode(Puppet::Util::RunMode[:server])
      Puppet.settings.initialize_app_defaults(defaults.merge(name: 'server'))
      Puppet[:always_retry_plugins] = false

      Puppet::FileServing::Content.indirection.terminus_class = :file_server
      Puppet::FileServing::Metadata.indirection.terminus_class = :file_server
      # storeconfigs sends collectors to this terminus, and sets caches that nothing here needs.
      Puppet::Resource.indirection.terminus_class = :troupe
      Puppet::Resource::Catalog.indirection.cache_class = nil
      Puppet::Node::Facts.indirection.cache_class = nil
    end

    # Makes one instance of the environment stay for the life of the process,
    # whatever environment_timeout its environment.conf has: its files never
    # change.
    def pin(open)
      loader = Puppet.lookup(:environments)
      environment = loader.get!(open['environment'])
      answer_for_the_version_script(environment, open)
      Puppet.push_context({ environments: Pinned.new(loader, environment), current_environment: environment },
                          'one environment for one process')
      environment
    end

    # A config_version script asks git, and a snapshot has no repository: it runs on the
    # original, or has run where the original is and its answer came with the version.
    def answer_for_the_version_script(environment, open)
      command = environment.config_version
      return if command.nil? || command.empty?

      open['paths'].each { |snapshot, original| command = command.gsub(snapshot, original) if File.directory?(original) }
      answer = open['config_version']
      command = "/bin/echo #{Shellwords.escape(answer)}" unless answer.empty?
      environment.instance_variable_set(:@config_version, command)
    end

    # Pinned is a loader of environments that always gives the same instance.
    class Pinned < SimpleDelegator
      def initialize(loader, environment)
        super(loader)
        @environment = environment
      end

      def get(name)
        name.to_sym == @environment.name ? @environment : super
      end

      def get!(name)
        name.to_sym == @environment.name ? @environment : super
      end
    end
  end
end
