# A custom fact, known to the server only if pluginsync has worked.
Facter.add(:site_custom) do
  setcode { 'from a custom fact' }
end
