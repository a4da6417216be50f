module Troupe
  # Timings measures the steps of one compile in seconds.
  class Timings
    class << self
      # The measurement that parsing is added to.
      attr_accessor :current
    end

    # Parsing adds the time of each manifest that is read in the middle of the
    # evaluation. Evaluated code may cause parsing, parsing never evaluates.
    module Parsing
      def parse_file(*)
        Timings.measure('parse') { super }
      end
    end

    def self.measure(step, &block)
      current ? current.measure(step, &block) : yield
    end

    def initialize
      @seconds = Hash.new(0.0)
      Timings.current = self
    end

    def measure(step)
      start = Process.clock_gettime(Process::CLOCK_MONOTONIC)
      yield
    ensure
      @seconds[step] += Process.clock_gettime(Process::CLOCK_MONOTONIC) - start
    end

    # Evaluation is what is left of the compile without the parsing in it.
    def to_h
      result = @seconds.dup
      result['evaluate'] = [result.delete('compile') - result['parse'], 0.0].max if result.key?('compile')
      result
    end
  end
end
