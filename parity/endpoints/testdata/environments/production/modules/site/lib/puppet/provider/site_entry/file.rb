# Keeps entries as lines of the form `name=value`.
Puppet::Type.type(:site_entry).provide(:file) do
  def exists?
    !value.nil?
  end

  def create
    write(lines + ["#{resource[:name]}=#{resource[:value]}"])
  end

  def destroy
    write(others)
  end

  def value
    line = lines.find { |l| l.start_with?("#{resource[:name]}=") }
    line && line.split('=', 2).last
  end

  def value=(wanted)
    write(others + ["#{resource[:name]}=#{wanted}"])
  end

  private

  def lines
    File.exist?(resource[:path]) ? File.readlines(resource[:path]).map(&:chomp) : []
  end

  def others
    lines.reject { |l| l.start_with?("#{resource[:name]}=") }
  end

  def write(text)
    File.write(resource[:path], text.map { |l| "#{l}\n" }.join)
  end
end
