# A custom type: one line of a text file.
Puppet::Type.newtype(:site_entry) do
  ensurable

  newparam(:name, namevar: true)
  newparam(:path)
  newproperty(:value)
end
