require 'rbconfig'
require_relative 'fork_server'

module Troupe
  # The Template is the fork server that all other Ruby processes descend from. A
  # zygote that follows another is left by its parent; the template then is its
  # parent, so that no process is left that nobody waits for.
  class Template < ForkServer
    # Numbers of prctl(2) and of its option; Ruby has no name for either.
    PRCTL = { 'x86_64' => 157, 'aarch64' => 167 }.freeze
    PR_SET_CHILD_SUBREAPER = 36

    def run
      adopt_orphans
      super
    end

    private

    # Where this cannot be said, orphans go to the first process of the machine.
    def adopt_orphans
      number = PRCTL[RbConfig::CONFIG['host_cpu']]
      syscall(number, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) if number
    rescue NotImplementedError, NoMethodError, SystemCallError
      nil
    end

    # The template runs no code of others: whoever ends is its own or an orphan.
    def ended
      Process.wait2(-1, Process::WNOHANG)
    rescue Errno::ECHILD
      nil
    end
  end
end
