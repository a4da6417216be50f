# Connects, with the HTTP library of the agent's Ruby, to a name of two addresses: the first swallows packets, or refuses
# them, the second answers. Prints for both whether the connection was made. The name comes from /etc/hosts.
require 'net/http'
require 'socket'

hole = Socket.new(:INET, :STREAM)
hole.bind(Addrinfo.tcp('127.0.0.2', 0))
hole.listen(0)
port = hole.local_address.ip_port
# Connections that nobody accepts fill the queue; the next ones are dropped without a word.
queue = Array.new(8) do
  s = Socket.new(:INET, :STREAM)
  s.connect_nonblock(Addrinfo.tcp('127.0.0.2', port), exception: false)
  s
end
good = TCPServer.new('127.0.0.3', port)
%w[swallows.example.com refuses.example.com].each do |name|
  http = Net::HTTP.new(name, port)
  http.open_timeout = 5
  begin
    http.start { puts "#{name} connected" }
  rescue Net::OpenTimeout
    puts "#{name} timed out"
  end
end
queue.each(&:close)
good.close
