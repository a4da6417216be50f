# What this agent has of its CA, for the class troupe_rollover.
Facter.add(:troupe_rollover) do
  setcode do
    require 'digest'
    require 'openssl'
    require 'puppet'

    blocks = lambda do |path, type|
      text = File.file?(path) ? File.read(path) : ''
      text.scan(/-----BEGIN #{type}-----.+?-----END #{type}-----/m)
    end
    common_name = lambda do |name|
      part = name.to_a.find { |p| p[0] == 'CN' }
      part ? part[1].dup.force_encoding('UTF-8') : ''
    end

    fact = {
      'localcacert' => Puppet[:localcacert], 'hostcrl' => Puppet[:hostcrl], 'hostcert' => Puppet[:hostcert],
      'confdir'     => Puppet[:confdir], 'revocation' => Puppet[:certificate_revocation].to_s,
      'ca'          => blocks.call(Puppet[:localcacert], 'CERTIFICATE').map { |b| common_name.call(OpenSSL::X509::Certificate.new(b).subject) },
      'crl'         => blocks.call(Puppet[:hostcrl], 'X509 CRL').map { |b| common_name.call(OpenSSL::X509::CRL.new(b).issuer) }
    }
    own = blocks.call(Puppet[:hostcert], 'CERTIFICATE').first
    if own
      certificate = OpenSSL::X509::Certificate.new(own)
      info = OpenSSL::ASN1.decode(certificate.to_der).value[0].value[6] # SubjectPublicKeyInfo of a certificate of version 3
      fact['issuer'] = common_name.call(certificate.issuer)
      fact['key'] = Digest::SHA256.hexdigest(info.to_der)
    end
    fact
  end
end
