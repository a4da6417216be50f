module Troupe
  # A Channel carries frames over one socket. A frame is two lengths of four
  # bytes, a JSON head and a body of any bytes; the Go side is frame.go.
  #
  # Nothing is read ahead: a descriptor may follow a frame, and bytes that go
  # through a buffer lose the descriptor sent with them.
  class Channel
    MAX_LENGTH = 256 * 1024 * 1024

    attr_reader :io

    def initialize(io)
      @io = io
      @owner = Process.pid
    end

    # Returns head and body, or nil when the other side is gone.
    def read
      lengths = exactly(8)
      return nil if lengths.nil?

      head_length, body_length = lengths.unpack('NN')
      raise IOError, 'frame is too long' if head_length > MAX_LENGTH || body_length > MAX_LENGTH

      head = exactly(head_length)
      body = exactly(body_length)
      return nil if head.nil? || body.nil?

      [JSON.parse(head.force_encoding(Encoding::UTF_8), max_nesting: 0, create_additions: false), body]
    end

    def write(head, body = '')
      # A function may fork and let the child run on: it must not answer in its
      # parent's name.
      exit!(1) unless Process.pid == @owner

      text = JSON.generate(head, max_nesting: 0)
      @io.write([text.bytesize, body.bytesize].pack('NN'), text, body)
    end

    # Sends a question and returns the answer to it.
    def ask(head)
      write(head)
      answer, = read
      raise IOError, 'the server went away' if answer.nil?

      answer
    end

    # Returns the socket that follows a frame.
    def receive_socket
      @io.recv_io(UNIXSocket)
    rescue Errno::EINTR
      retry
    end

    def close
      @io.close
    end

    private

    def exactly(length)
      data = String.new(capacity: length)
      data << some(length - data.bytesize) while data.bytesize < length
      data
    rescue EOFError, Errno::ECONNRESET
      nil
    end

    # Unlike the buffered methods, sysread does not go on after a signal.
    def some(length)
      @io.sysread([length, 1 << 20].min)
    rescue Errno::EINTR
      retry
    end
  end
end
