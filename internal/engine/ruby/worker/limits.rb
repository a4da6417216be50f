require 'etc'

module Troupe
  # Limits bounds what one worker can take from the machine. The Go process
  # watches the clock and the memory too; the kernel's limits hold even if it
  # cannot.
  module Limits
    PAGE = Etc.sysconf(Etc::SC_PAGESIZE)

    module_function

    # Lets this process and each of its children grow by so many bytes. Ruby
    # then raises NoMemoryError, which ends one compile and not the machine.
    def memory(bytes)
      pages = File.read('/proc/self/statm').to_i
      Process.setrlimit(:AS, (pages * PAGE) + bytes, Process.getrlimit(:AS).last)
      Process.setrlimit(:CORE, 0, Process.getrlimit(:CORE).last)
    end

    # Gives the coming compile so many seconds of CPU on top of what is used.
    def cpu(seconds)
      used = Process.clock_gettime(Process::CLOCK_PROCESS_CPUTIME_ID)
      Process.setrlimit(:CPU, (used + seconds).ceil + 1, Process.getrlimit(:CPU).last)
    end

    # Ends the limit of cpu: a zygote works on between its compiles.
    def any_cpu
      hardest = Process.getrlimit(:CPU).last
      Process.setrlimit(:CPU, hardest, hardest)
    end

    # Seconds for which this process could have run and had no CPU; 0 where the
    # kernel does not count them.
    def starved
      File.read('/proc/self/schedstat').split[1].to_i / 1e9
    rescue SystemCallError
      0.0
    end

    # Resident memory in bytes.
    def resident
      File.read('/proc/self/statm').split[1].to_i * PAGE
    end
  end
end
