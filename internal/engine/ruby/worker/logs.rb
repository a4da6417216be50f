module Troupe
  # Logs is the one log destination of a process: it keeps what Puppet says
  # while one catalog is compiled.
  class Logs
    # A loop that logs must not fill the memory before the deadline stops it.
    MAX_MESSAGES = 5_000
    MAX_BYTES = 4 * 1024 * 1024

    # Makes the destination known to Puppet and directs all messages to it.
    def self.install
      logs = new
      Puppet::Util::Log.newdesttype(:troupe) do
        match 'Troupe::Logs'

        def initialize(logs)
          @name = 'troupe'
          @logs = logs
        end

        def handle(message)
          @logs.add(message)
        end
      end
      Puppet::Util::Log.close_all
      Puppet::Util::Log.newdestination(logs)
      logs
    end

    def initialize
      clear
    end

    # Begins a new collection; level is what the request wants to hear.
    def clear(level = nil)
      @messages = []
      @bytes = 0
      @dropped = 0
      Puppet::Util::Log.level = level if level && Puppet::Util::Log.levels.include?(level.to_sym)
    end

    def add(message)
      text = Text.clean(message.message)
      if @messages.size >= MAX_MESSAGES || @bytes + text.bytesize > MAX_BYTES
        @dropped += 1
        return
      end

      @bytes += text.bytesize
      @messages << { 'level' => message.level.to_s, 'message' => text, 'source' => Text.clean(message.source),
                     'tags' => message.tags.map { |tag| Text.clean(tag) }, 'file' => Text.clean(message.file), 'line' => message.line.to_i, 'time' => message.time.iso8601(6) }
    end

    # How many messages there were.
    def count
      @messages.size + @dropped
    end

    def to_a
      return @messages if @dropped.zero?

      @messages + [{ 'level' => 'warning', 'message' => "#{@dropped} further messages were dropped",
                     'source' => 'Puppet', 'file' => '', 'line' => 0, 'time' => Time.now.iso8601(6) }]
    end
  end

  # Text makes strings of any encoding fit for JSON.
  module Text
    module_function

    def clean(value)
      text = value.to_s
      text = text.encoding == Encoding::UTF_8 ? text : text.dup.force_encoding(Encoding::UTF_8)
      text.valid_encoding? ? text : text.scrub
    end
  end
end
