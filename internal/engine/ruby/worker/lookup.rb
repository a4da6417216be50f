module Troupe
  # A Lookup answers what `puppet lookup` would: Puppet's own application reads
  # the options, looks up and renders. The node is made as for a catalog.
  #
  # The environment and the settings are another's afterwards, so the worker
  # ends with it.
  class Lookup
    def initialize(environment, logs)
      @environment = environment
      @logs = logs
    end

    # Returns the head and the body of the answer; never raises what Hiera data
    # and its functions can cause, except for the end of the memory.
    def answer(request)
      @logs.clear(Puppet[:log_level].to_s)
      Server.forget
      status, output = look_up(request)
      [{ 'event' => 'done', 'spent' => true, 'found' => status.zero?, 'logs' => @logs.to_a }, output]
    rescue StandardError, SystemExit, SystemStackError, ScriptError => e
      [{ 'event' => 'failed', 'spent' => true, 'message' => message(e), 'logs' => @logs.to_a }, '']
    end

    private

    def look_up(request)
      require 'puppet/application/lookup'
      trusted = NodeBuilder.trusted(request)
      Puppet.override({ trusted_information: trusted, current_environment: @environment }, 'looking up data') do
        # What a manifest has defined here belongs to compiles.
        @environment.instance_variable_set(:@known_resource_types, nil)
        node = NodeBuilder.build(request, @environment, trusted)
        @environment.with_text_domain { Lookup.application.new(node, request['keys'], request['options']).run }
      end
    end

    def message(error)
      return Text.clean(error.message) unless error.is_a?(SystemExit)

      "the code of environment #{@environment.name} called exit(#{error.status}) while data was looked up"
    end

    # The application with a node instead of a command line. Its class is made
    # when it is first needed: few workers ever look anything up.
    def self.application
      @application ||= Class.new(Puppet::Application::Lookup) do
        def initialize(node, keys, options)
          super(Struct.new(:subcommand_name, :args).new('lookup', keys))
          @options = options.transform_keys(&:to_sym)
          @options[:render_as] = @options[:render_as].to_sym if @options[:render_as]
          @node = node
          @output = +''
        end

        # Returns the exit status and the output.
        def run
          [catch(:exit) { main }, @output]
        end

        private

        # lib/puppet/application/lookup.rb finds facts and the node here, and compiles nothing but `undef` unless told so.
        def generate_scope
          Puppet[:code] = 'undef' unless options[:compile]
          compiler = Puppet::Parser::Compiler.new(@node)
          compiler.compile do |catalog|
            yield(compiler.topscope)
            catalog
          end
        end

        def puts(text)
          @output << text
          @output << "\n" unless text.end_with?("\n")
        end

        # Not SystemExit: that is what a function of the environment raises.
        def exit(status)
          throw :exit, status
        end
      end
    end
  end
end
