require 'ripper'
require_relative 'library'

module Troupe
  # FasterTemplates keeps ERB templates compiled. Puppet compiles a template each
  # time that it is used, and hands every variable in scope to it; here the text
  # becomes a method of the wrapper once, and gets those variables that it names.
  # With 48 templates of Debian's apache module that is a fifth of a compile.
  #
  # What a template could notice decides: one that looks at its own frame, its
  # instance variables or its methods runs as Puppet runs it.
  module FasterTemplates
    # Of the methods that are replaced or followed here.
    DIGESTS = %w[858d9b1746908596 5db32b0984df4fcd 5c07c7b26faa98c7 fdae0e2380443a57 56fa47be6e6e76f7 af99ebfcfe6f8ebb
                 c56208d154709218 8924aa4059940f92 11c8de2466c67670 e6b76ac449a6fcda 34e9ae9400c1d8b4].freeze

    # Code that tells a method from an evaluated text.
    OWN_FRAME = %w[binding eval instance_eval instance_exec class_eval class_exec module_eval local_variables block_given? caller
                   caller_locations __method__ __callee__ __dir__ __FILE__ require_relative set_trace_func return yield super def class module alias undef
                   BEGIN END template].freeze
    # Code that may ask for variables or methods by other means than their names.
    ALL_VARIABLES = %w[self send public_send __send__ inspect to_s to_yaml to_json method methods public_methods private_methods
                       singleton_class instance_variables instance_variable_get instance_variable_set instance_variable_defined?
                       remove_instance_variable hash dup clone freeze tap then itself yield_self object_id display].freeze

    MAX_TEMPLATES = 2_000
    MAX_BYTES = 16 * 1024 * 1024

    # How ERB appends the text between two tags.
    TEXT = /_erbout\.<< "(?:[^"\\]|\\.)*"\.freeze;?/.freeze
    private_constant :TEXT

    # The text as a method: its name, and the variables that it names, or nil for
    # all.
    Compiled = Struct.new(:name, :variables)

    class << self
      def install
        scope = Puppet::Parser::Scope
        return unless Library.unchanged?(
          { Puppet::Parser::TemplateWrapper => %i[result], scope => %i[to_hash enclosing_scope inherited_scope],
            scope::Ephemeral => %i[add_entries_to], scope::LocalScope => %i[add_entries_to], scope::MatchScope => %i[add_entries_to] }, DIGESTS
        )

        @templates = {}
        @bytes = 0
        Puppet::Parser::TemplateWrapper.prepend(self)
      end

      # Takes pairs of a path in the snapshot and the operator's own, longest first.
      def begin_version(paths)
        @paths = paths.map { |snapshot, original| [/\A#{Regexp.escape(snapshot)}(?=\/|\z)/, original] }
      end

      # Returns nil for a text that has to be evaluated as Puppet does it. Only the
      # text of a file is kept: an inline template may hold what one node may know.
      # What goes wrong in it is told with the operator's path, in every version
      # that has the same text there.
      def compiled(file, text)
        from, to = @paths&.find { |snapshot, _| snapshot.match?(file) }
        file = file.sub(from) { to } if from
        key = [file, text]
        @templates.fetch(key) do
          return nil if @templates.size >= MAX_TEMPLATES || @bytes + text.bytesize > MAX_BYTES

          @bytes += text.bytesize
          @templates[key] = define(file, text)
        end
      end

      private

      def define(file, text)
        coding, body = Puppet::Util.create_erb(text).src.split("\n", 2)
        return nil unless coding.start_with?('#coding:') && !body.start_with?('#')

        names, variables = words(body)
        return nil if names.intersect?(FRAME_WORDS)

        name = :"__troupe_template_#{@templates.size}"
        # The locals are those that Puppet's method has where it evaluates the text;
        # a text that names the last one, the ERB object, was refused above.
        head = "#{coding}\nclass Puppet::Parser::TemplateWrapper; " \
               "private def #{name}(string, template_source, escaped_template_source, result, template) "
        eval("#{head}#{body}\nend end", TOPLEVEL_BINDING, file, 0) # rubocop:disable Security/Eval -- as ERB does
        Compiled.new(name, names.intersect?(VARIABLE_WORDS) ? nil : variables.to_a)
      rescue ScriptError
        nil # Puppet says what is wrong with it, at each use
      end

      # Words that are not the name of a method of something else, and variables. The
      # text between the tags, of which ERB makes strings, has neither.
      def words(source)
        names = Set.new
        variables = Set.new
        last = nil
        Ripper.lex(source.gsub(TEXT, '')).each do |_, kind, token, _|
          case kind
          when :on_ident, :on_kw, :on_const then names << token unless %w[. &.].include?(last)
          when :on_ivar then variables << token.delete_prefix('@')
          end
          last = token unless %i[on_sp on_ignored_nl].include?(kind)
        end
        [names, variables]
      end
    end

    FRAME_WORDS = Set.new(OWN_FRAME).freeze
    VARIABLE_WORDS = Set.new(ALL_VARIABLES).freeze
    private_constant :FRAME_WORDS, :VARIABLE_WORDS

    def result(string = nil)
      return super if string || Puppet::Util::Log.sendlevel?(:debug)

      text = Puppet::FileSystem.read_preserve_line_endings(@__file__)
      compiled = FasterTemplates.compiled(@__file__, text)
      return super if compiled.nil?

      bind_variables(compiled.variables)
      send(compiled.name, text, @__file__, @__file__.gsub(/%/, '%%'), nil, nil)
    end

    private

    def bind_variables(names)
      variables = names && Visible.in(scope, names)
      if variables
        variables.each { |name, value| instance_variable_set("@#{name}", value) }
      else
        scope.to_hash.each { |name, value| instance_variable_set("@#{name.gsub(/[^\w]/, '_')}", value) }
      end
    end

    # Visible finds variables by name as Scope#to_hash would gather all of them.
    module Visible
      # A variable of such a name is known to templates by another name, or hides
      # an instance variable of the wrapper.
      ODD = /\W|\A__/.freeze

      module_function

      # Returns nil where only Puppet's own method is sure to be right.
      def in(scope, names)
        catch(:unsure) { gather(scope, names) }
      end

      def gather(scope, names)
        if scope.parent.nil?
          target = {}
        else
          target = gather(scope.enclosing_scope, names)
          inherited = scope.inherited_scope
          target.merge!(gather(inherited, names)) unless inherited.nil?
        end
        add(scope.instance_variable_get(:@ephemeral).last, names, target)
        target
      end

      def add(entries, names, target)
        throw :unsure, nil unless [Puppet::Parser::Scope::LocalScope, Puppet::Parser::Scope::MatchScope].include?(entries.class)

        add(entries.parent, names, target) unless entries.parent.nil?
        symbols = entries.instance_variable_get(:@symbols)
        return if symbols.nil?

        throw :unsure, nil if symbols.any? { |name, _| ODD.match?(name) }
        names.each do |name|
          value = symbols[name]
          if !value.nil? && value != :undef then target[name] = value
          elsif symbols.key?(name) then target.delete(name)
          end
        end
      end
    end
    private_constant :Visible
  end
end
