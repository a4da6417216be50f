# Runs `puppet lookup` with the arguments given, once for each list of further
# arguments on standard input (JSON), and tells what each run did. The library
# and the settings are loaded once; each run is a process of its own.
require 'json'
require 'tempfile'
require 'puppet/util/command_line'
require 'puppet'
require 'puppet/application/lookup'

module EachInItsOwnProcess
  def run_command
    done = JSON.parse($stdin.read).map { |arguments| outcome(arguments) }
    puts JSON.generate(done)
  end

  private

  def outcome(arguments)
    out, err = Tempfile.new, Tempfile.new
    pid = fork do
      $stdout.reopen(out)
      $stderr.reopen(err)
      command_line.args.replace(arguments)
      parse_options
      exit_on_fail('Could not run') { main }
    end
    Process.wait(pid)
    { 'exit' => $?.exitstatus, 'stdout' => File.read(out.path), 'stderr' => File.read(err.path) }
  end
end

Puppet::Application::Lookup.prepend(EachInItsOwnProcess)
Puppet::Util::CommandLine.new('puppet', ['lookup', *ARGV]).execute
