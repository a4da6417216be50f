Puppet::Type.newtype(:corpus_setting) do
  @doc = 'A native type with a composite namevar, munging and validation.'
  ensurable
  def self.title_patterns
    [[/\A([^:]+):(.+)\z/m, [[:section], [:key]]], [/\A(.*)\z/m, [[:key]]]]
  end
  newparam(:section, namevar: true) { defaultto 'main' }
  newparam(:key, namevar: true)
  newproperty(:value) do
    munge { |v| v.to_s.strip }
  end
  newproperty(:words, array_matching: :all)
  newparam(:secret) { sensitive true if respond_to?(:sensitive) }
end
