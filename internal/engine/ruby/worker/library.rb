require 'digest'

module Troupe
  # Library says whether methods of Puppet are those that a faster equal was
  # written for. Another generation of Puppet keeps its own.
  module Library
    module_function

    # Takes names of methods by class, and the digests of the texts that are known.
    def unchanged?(methods, known)
      methods.all? { |owner, names| names.all? { |name| known.include?(digest(owner.instance_method(name))) } }
    rescue SystemCallError, NameError
      false
    end

    # Digests the text of a method, from def to end, without its indentation.
    def digest(method)
      file, line = method.source_location
      return nil if file.nil?

      lines = File.readlines(file, encoding: Encoding::UTF_8).drop(line - 1)
      indent = lines.first[/\A\s*/]
      last = lines.index { |l| l.chomp == "#{indent}end" } || 0
      Digest::SHA256.hexdigest(lines[0..last].map(&:strip).join("\n"))[0, 16]
    end
  end
end
