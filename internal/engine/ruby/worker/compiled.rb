require 'json'

module Troupe
  # Compiled is a file of Ruby files that were compiled before: with it Ruby loads
  # Puppet without parsing it. Its layout is a length of four bytes, a JSON head
  # with a table of the files, and what Ruby made of them, one after the other.
  #
  # Whoever writes it decides what all environments run, so it is written by the
  # server, from the output of a process that has loaded nothing but the library.
  class Compiled
    # Loads from the file what it has. Returns nil, and changes nothing, if it is
    # for another interpreter or cannot be read.
    def self.use(path)
      compiled = new(File.open(path, 'rb'))
      RubyVM::InstructionSequence.singleton_class.define_method(:load_iseq) { |file| compiled.load(file) }
      compiled
    rescue SystemCallError, JSON::ParserError, ArgumentError
      nil
    end

    # Notes what Ruby reads from now on. Ruby itself remembers only what it has read to the end: a file that misses a library is read
    # again at each start.
    def self.follow
      @read = read = []
      RubyVM::InstructionSequence.singleton_class.define_method(:load_iseq) do |file|
        read << file
        nil
      end
    end

    # Writes such a file: all that is loaded, and all that Puppet may load later.
    def self.write(out)
      files = $LOADED_FEATURES.select { |file| file.end_with?('.rb') && file.start_with?('/') } | @read
      puppet = files.find { |file| file.end_with?('/puppet.rb') }
      files |= Dir[File.join(File.dirname(puppet), 'puppet', '**', '*.rb')].sort
      table = {}
      blob = String.new(encoding: Encoding::BINARY)
      files.each do |file|
        binary = RubyVM::InstructionSequence.compile_file(file).to_binary
        table[file] = [*stamp(file), blob.bytesize, binary.bytesize]
        blob << binary
      rescue SyntaxError, SystemCallError
        next # Ruby will say what is wrong with it
      end
      head = JSON.generate('ruby' => RUBY_DESCRIPTION, 'files' => table)
      out.binmode
      out.write([head.bytesize].pack('N'), head, blob)
    end

    # What tells whether a file is still the one that was compiled.
    def self.stamp(file)
      stat = File.stat(file)
      [stat.size, (stat.mtime.to_r * 1_000_000_000).to_i, (stat.ctime.to_r * 1_000_000_000).to_i]
    end

    # How many files were not there, or not as they are now.
    attr_reader :misses

    def initialize(io)
      @io = io
      length = io.read(4).to_s.unpack1('N')
      raise ArgumentError, 'no head' if length.nil?

      head = JSON.parse(io.read(length).to_s)
      raise ArgumentError, 'of another interpreter' unless head['ruby'] == RUBY_DESCRIPTION

      @start = 4 + length
      @files = head['files']
      @misses = 0
    end

    # Returns nil for a file that Ruby has to parse.
    def load(file)
      *stamp, offset, length = @files[file]
      if stamp.empty? || stamp != self.class.stamp(file)
        @misses += 1
        return nil
      end
      RubyVM::InstructionSequence.load_from_binary(@io.pread(length, @start + offset))
    rescue SystemCallError, EOFError, RuntimeError
      @misses += 1
      nil
    end
  end
end
