require_relative 'server'
require_relative 'limits'
require_relative 'logs'
require_relative 'settings'
require_relative 'node'
require_relative 'exported'
require_relative 'original_files'
require_relative 'puppetdb_query'
require_relative 'timings'
require_relative 'imports'
require_relative 'compilation'
require_relative 'class_listing'
require_relative 'lookup'
require_relative 'worker'
require_relative 'faster_autoload'
require_relative 'faster_parsing'
require_relative 'faster_templates'

module Troupe
  # A Zygote holds one version of one environment. It is warmed by compiling
  # catalogs of real nodes itself, so that every worker forked from it has the
  # manifests, functions, types and data in memory.
  #
  # A zygote may have an heir, which serves the next version of the environment
  # with what both versions have in common: Ruby code, the programs of unchanged
  # manifests, compiled templates. Ruby code that differs is never inherited.
  class Zygote < ForkServer
    # Loads, in the template, the code that every compile needs. Types and
    # functions are not touched: a module may bring its own of the same name.
    def self.preload
      require 'puppet/parser'
      require 'puppet/parser/compiler'
      require 'puppet/pops'
      require 'puppet/indirector/catalog/compiler'
      require 'puppet/application_support'
      require 'puppet/file_serving/metadata'
      require 'puppet/file_serving/content'
      require 'puppet/file_serving/configuration'
      require 'puppet/node/facts'
      # Providers ask for the operating system, which loads most of Facter.
      Puppet.runtime[:facter].value('os.name')
      Settings.learn_domain
      Puppet::Pops::Loaders.prepend(PuppetdbQuery)
      Puppet::FileServing::Metadata.prepend(OriginalFiles)
      Puppet::Parser::TypeLoader.prepend(Imports)
      Puppet::Pops::Parser::EvaluatingParser.prepend(Timings::Parsing)
      FasterAutoload.install
      FasterParsing.install
      FasterTemplates.install
    end

    # Serves as a zygote until the channel ends, and as its heirs in their processes.
    def self.serve(channel, lifeline)
      zygote = new(channel, lifeline)
      while (channel = zygote.run)
        zygote = new(channel, lifeline, zygote.logs)
      end
    end

    attr_reader :logs

    # Logs are given to an heir.
    def initialize(channel, lifeline, logs = nil)
      super(channel, lifeline) { |socket| Worker.new(socket, @environment, @compilation, Lookup.new(@environment, @logs), @limits).run }
      @logs = logs
    end

    private

    def serve(head)
      case head['op']
      when 'open' then open(head)
      when 'compile' then compile(head)
      when 'settle' then settle
      else super
      end
    end

    def open(head)
      @limits = head['limits']
      unknown = []
      if @logs
        Settings.move(head)
      else
        @logs = Logs.install
        unknown = Settings.apply(head)
      end
      FasterParsing.begin_version(head['root'], @logs)
      FasterTemplates.begin_version(head['paths'])
      begin_environment(head)
      @channel.write('event' => 'opened', 'unknown_settings' => unknown, 'logs' => @logs.to_a)
    rescue StandardError, ScriptError => e
      @channel.write('event' => 'failed', 'message' => Text.clean(e.message), 'logs' => @logs.to_a)
    end

    def begin_environment(head)
      @opened = head
      @environment = Settings.pin(head)
      @compilation = Compilation.new(@environment, @logs)
    end

    # What it makes Puppet load is there for every worker. If the memory ends, so
    # does this process: Go starts another.
    def compile(request)
      Server.channel = @channel
      Limits.memory(@limits['memory'])
      Limits.cpu(request['deadline'])
      head, body = @compilation.compile(request)
      @channel.write(head, body)
      Limits.any_cpu
      @compilation.forget
      return unless head['spent']

      Settings.move(@opened)
      begin_environment(@opened)
    end

    # Tidies the heap before the first fork, so that workers share more of it.
    def settle
      GC.start
      if Process.respond_to?(:warmup)
        Process.warmup
      elsif GC.respond_to?(:compact)
        begin
          GC.compact
        rescue NotImplementedError
          nil
        end
      end
      @channel.write('event' => 'settled', 'rss' => Limits.resident)
    end
  end
end
