# Reaches the agent by pluginsync before its facts are collected.
Facter.add(:demo_fact) do
  setcode { 'the show must go on' }
end
