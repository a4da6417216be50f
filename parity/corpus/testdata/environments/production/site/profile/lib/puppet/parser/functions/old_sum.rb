# A function of the 3.x API.
module Puppet::Parser::Functions
  newfunction(:old_sum, type: :rvalue, arity: -2, doc: 'Sums its arguments up.') do |args|
    args.flatten.inject(0) { |sum, n| sum + n.to_i } + (lookupvar('tier').to_i * 0)
  end
end
