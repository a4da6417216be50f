# Answers file requests with the real Puppet library, so that tests can compare.
# Reads one JSON object: dir, environmentpath, basemodulepath, fileserverconfig,
# queries. Prints an array: the JSON text of each answer, null for "not found",
# or {"error": message}.
require 'json'
require 'puppet'
require 'puppet/info_service'

# The order of entries in a folder is the file system's; sort it to compare.
class Dir
  class << self
    alias unsorted_entries entries
    def entries(*args, **options)
      unsorted_entries(*args, **options).sort
    end

    alias unsorted_glob glob
    def glob(*args, **options)
      unsorted_glob(*args, **options).sort
    end
  end
end

class << Puppet::FileSystem
  alias unsorted_children children
  def children(path)
    unsorted_children(path).sort
  end
end

def primitive(value)
  case value
  when Array then value.map { |v| primitive(v) }
  when 'true' then true
  when 'false' then false
  when /^\d+$/ then Integer(value)
  else value
  end
end

input = JSON.parse($stdin.read)
Puppet::Util::Log.level = :crit
Puppet.initialize_settings(
  ['--confdir', "#{input['dir']}/conf", '--vardir', "#{input['dir']}/var", '--logdir', "#{input['dir']}/log",
   '--rundir', "#{input['dir']}/run", '--publicdir', "#{input['dir']}/public", '--codedir', "#{input['dir']}/code",
   '--environmentpath', input['environmentpath'], '--basemodulepath', input['basemodulepath'],
   '--fileserverconfig', input['fileserverconfig']]
)
loader = Puppet::Environments::Directories.new(input['environmentpath'], input['basemodulepath'].split(':'))
answers = Puppet.override(environments: loader) do
  input['queries'].map do |query|
    options = query['options'].to_h { |k, v| [k.to_sym, primitive(v)] }
    begin
      env = loader.get(query['environment'])
      case query['kind']
      when 'find', 'search'
        result = Puppet::FileServing::Metadata.indirection.send(query['kind'], query['key'], options.merge(environment: env))
        result && JSON.generate(result.is_a?(Array) ? result.map(&:to_data_hash) : result.to_data_hash)
      when 'settings'
        conf = loader.get_conf(env.name)
        timeout = conf.environment_timeout
        JSON.generate(
          'modulepath' => env.full_modulepath, 'manifest' => env.manifest,
          'environment_timeout' => timeout == Float::INFINITY ? 'unlimited' : timeout,
          'config_version' => env.config_version || ''
        )
      when 'modules'
        JSON.generate(env.modules.map { |m| [m.forge_name || m.name, m.version, m.path] })
      when 'tasks'
        JSON.generate(Puppet::InfoService.tasks_per_environment(env.name).map { |t| [t[:name], t[:metadata] || {}] })
      when 'task'
        mod, name = query['key'].split('/')
        data = Puppet::InfoService.task_data(env.name, mod, name == 'init' ? mod : "#{mod}::#{name}")
        JSON.generate(data[:error] ? data[:error] : { metadata: data[:metadata] || {}, files: data[:files].map { |f| f['name'] } })
      when 'plans'
        JSON.generate(Puppet::InfoService.plans_per_environment(env.name).map { |p| p[:name] })
      when 'fnmatch'
        JSON.generate(query['options']['names'].map { |n| File.fnmatch?(query['key'], n) })
      end
    rescue StandardError, NotImplementedError => e
      { error: e.message }
    end
  end
end
puts JSON.generate(answers)
