module Troupe
  # A ForkServer forks a child for every "fork" command, gives it the socket
  # that follows the command, and tells how each child ended. The template and
  # the zygotes are fork servers; a zygote also answers commands of its own.
  #
  # A child that is to be an heir goes on where its parent stands, with a channel
  # of its own, and outlives it.
  class ForkServer
    def initialize(channel, lifeline, &child)
      @channel = channel
      @lifeline = lifeline
      @child = child
      @children = []
      @heirs = []
    end

    # Serves until the Go process closes the channel or says stop; then every
    # child but the heirs is killed, with all that it started. In an heir it
    # returns the heir's channel, otherwise nil.
    def run
      @wake_reader, @wake_writer = IO.pipe
      trap(:CHLD) { @wake_writer.write_nonblock('.', exception: false) }
      catch(:heir) do
        nil while step
        nil
      end
    ensure
      @children.each { |pid| kill_group(pid) }
    end

    private

    def step
      ready, = IO.select([@channel.io, @wake_reader])
      reap if ready.include?(@wake_reader)
      return true unless ready.include?(@channel.io)

      head, = @channel.read
      return false if head.nil? || head['op'] == 'stop'

      head['op'] == 'fork' ? fork_child(head['heir']) : serve(head)
      true
    end

    def serve(head)
      raise ArgumentError, "unknown command #{head['op']}"
    end

    def fork_child(heir)
      socket = @channel.receive_socket
      pid = fork
      return begin_life(socket, heir) if pid.nil?

      socket.close
      begin
        # Both sides do it, so that neither has to wait for the other.
        Process.setpgid(pid, pid)
      rescue Errno::EACCES, Errno::ESRCH
        nil
      end
      (heir ? @heirs : @children) << pid
      @channel.write('event' => 'forked', 'pid' => pid)
    rescue SystemCallError => e
      @channel.write('event' => 'refused', 'error' => "no new process: #{e.message}")
    end

    # The child leaves what is its parent's. Only an heir returns to run.
    def begin_life(socket, heir)
      @children = []
      trap(:CHLD, 'DEFAULT')
      Process.setpgid(0, 0)
      @channel.close
      @wake_reader.close
      @wake_writer.close
      @lifeline.watch
      channel = Channel.new(socket)
      throw :heir, channel if heir

      @child.call(channel)
      exit!(0)
    rescue Exception => e # rubocop:disable Lint/RescueException -- nothing may unwind into the parent's frames
      warn "#{e.class}: #{e.message} (#{e.backtrace&.first})"
      exit!(1)
    end

    def reap
      @wake_reader.read_nonblock(4096, exception: false)
      while (pid, status = ended)
        @heirs.delete(pid)
        @children.delete(pid)
        kill_group(pid)
        @channel.write('event' => 'died', 'pid' => pid, 'exit' => status.exitstatus, 'signal' => status.termsig)
      end
    end

    # Returns a child that has ended, and how, or nil. It asks for our own children
    # only: a warming compile may run commands and wait for them itself.
    def ended
      (@children + @heirs).each do |pid|
        gone, status = Process.wait2(pid, Process::WNOHANG)
        return gone, status if gone
      end
      nil
    end

    # Ends what a child left behind. While such a process lives, the number of
    # its group cannot be given to another.
    def kill_group(pid)
      Process.kill(:KILL, -pid)
    rescue Errno::ESRCH, Errno::EPERM
      nil
    end
  end
end
