module Troupe
  # Server asks the Go process what only it knows, over the channel of the
  # request that is being compiled. Each distinct question is asked once per
  # compile: collectors are evaluated again in every round.
  module Server
    class << self
      attr_writer :channel

      def forget
        @answers = {}
        @collected = {}
      end

      # What the block makes of an answer, made once per compile.
      def collected(key)
        @collected ||= {}
        @collected[key] ||= yield
      end

      def exported(type, host, filter)
        ask('query' => 'exported', 'type' => type, 'host' => host, 'filter' => filter)
      end

      def puppetdb(query)
        ask('query' => 'puppetdb', 'ast' => query)
      end

      # What the operator's own file is like of which path is a copy; nil if it is none.
      def attributes(path, follow)
        ask('query' => 'attributes', 'path' => path, 'follow' => follow)
      end

      private

      def ask(question)
        @answers ||= {}
        @answers.fetch(question) do
          answer = @channel.ask(question.merge('event' => 'query'))
          raise Puppet::Error, answer['error'] if answer['error']

          @answers[question] = answer['answer']
        end
      end
    end
  end
end
