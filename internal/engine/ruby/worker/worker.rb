module Troupe
  # A Worker answers one request at a time until the Go process closes its
  # channel.
  class Worker
    def initialize(channel, environment, compilation, lookup, limits)
      @channel = channel
      @environment = environment
      @compilation = compilation
      @lookup = lookup
      @limits = limits
    end

    def run
      Server.channel = @channel
      Limits.memory(@limits['memory'])
      while (request, = @channel.read)
        respond(request)
      end
    end

    private

    # A method of its own, so that no variable keeps the catalog of one node while
    # that of the next is compiled.
    def respond(request)
      starved = Limits.starved
      head, body = answer(request)
      @channel.write(head.merge('rss' => Limits.resident, 'strays' => strays?, 'starved' => Limits.starved - starved), body)
    end

    def answer(request)
      Limits.cpu(request['deadline'])
      case request['op']
      when 'compile' then @compilation.compile(request)
      when 'lookup' then @lookup.answer(request)
      when 'classes' then [{ 'event' => 'done', 'files' => ClassListing.new(@environment).to_a }, '']
      else raise ArgumentError, "unknown command #{request['op']}"
      end
    rescue NoMemoryError
      GC.start
      [{ 'event' => 'failed', 'message' => '', 'memory' => true, 'logs' => [], 'timings' => {} }, '']
    end

    # Whether a function left processes running. The Go process then ends this
    # worker with its whole group.
    def strays?
      nil while Process.wait(-1, Process::WNOHANG)
      true
    rescue Errno::ECHILD
      false
    end
  end
end
