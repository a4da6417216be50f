Puppet::Functions.create_function(:'fault::explode') do
  dispatch :explode do
    optional_param 'Optional[String]', :word
  end

  def explode(word = nil)
    raise Puppet::Error, "exploded #{word}" if word

    Hash.new.fetch('the key')
  end
end
