require 'digest'
require_relative 'library'

module Troupe
  # FasterParsing keeps what files of the Puppet language were parsed into, so
  # that an EPP template is parsed once, and a zygote that follows another parses
  # what changed. It is kept by the place of a file below the snapshot and by the
  # digest of its text.
  #
  # A file whose parsing said something is parsed each time, so that it is said
  # each time.
  module FasterParsing
    # Of the methods that are followed here.
    DIGESTS = %w[2ddb4e3a71fa878b 79e680baf334eeff bf19fcbc208a73d2].freeze

    MAX_PROGRAMS = 50_000

    # A program, the digest of its text, and the version that it was last used in.
    Kept = Struct.new(:program, :digest, :version)
    private_constant :Kept

    class << self
      def install
        parser = Puppet::Pops::Parser::EvaluatingParser
        return unless Library.unchanged?({ parser => %i[parse_file parse_string], Puppet::Pops::Parser::Locator::AbstractLocator => %i[initialize] }, DIGESTS)

        @kept = {}
        @version = 0
        parser.prepend(self)
      end

      # Begins a version, whose files are below a folder. Logs hears what parsing says.
      def begin_version(root, logs)
        return if @kept.nil?

        @root = "#{root}/"
        @logs = logs
        @version += 1
        @kept.delete_if { |(_, place), _| !File.exist?(@root + place) }
      end

      # Returns the program of a file, which the block parses. Text is what the
      # caller has read of it, if it has.
      def program(parser, file, text = nil)
        return yield unless @root && file.is_a?(String) && file.start_with?(@root)

        key = [parser, file.delete_prefix(@root)]
        kept = @kept[key]
        return kept.program if kept && kept.version == @version && text.nil?

        digest = text ? Digest::SHA256.digest(text) : digest(file)
        return move(kept, file).program if kept && kept.digest == digest

        said = @logs.count
        program = yield
        keep(key, program, digest, file, text) if @logs.count == said && @kept.size < MAX_PROGRAMS
        program
      end

      private

      def digest(file)
        Digest::SHA256.file(file).digest
      rescue SystemCallError
        nil # Puppet says what is wrong with it
      end

      # Files of a version never change. A text that is not that of the file may
      # hold what one node may know.
      def keep(key, program, digest, file, text)
        return unless program.is_a?(Puppet::Pops::Model::Program) && digest && (text.nil? || digest == digest(file))

        @kept[key] = Kept.new(program, digest, @version)
      end

      # Positions are told with the path of the version in use. All parts of a
      # program share one locator, or ask it.
      def move(kept, file)
        kept.program.locator.instance_variable_set(:@file, file.dup.freeze) unless kept.version == @version
        kept.version = @version
        kept
      end
    end

    def parse_file(file)
      FasterParsing.program(self.class, file) { super }
    end

    def parse_string(text, file = nil)
      FasterParsing.program(self.class, file, text) { super }
    end
  end
end
