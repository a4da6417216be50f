module Troupe
  # The Lifeline ends a process and everything that it started when the Go
  # process dies, however it dies: then the kernel closes the pipe's other end.
  class Lifeline
    def initialize(io)
      @io = io
    end

    # Each process has to watch for itself: threads do not survive a fork. The
    # caller leads its process group, so that its children end with it.
    def watch
      Thread.new do
        begin
          @io.sysread(1)
        rescue Errno::EINTR # a child ended
          retry
        rescue StandardError
          nil
        end
        Process.kill(:KILL, 0)
      end
    end
  end
end
