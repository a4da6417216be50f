# Takes an agent from one issuer of the CA to the next. Written by `troupe ca rollover module`; run that again when agents have
# come since, and once more when the roll-over is finished: then it takes the old CA away from agents. Remove it after that.
#
# Agents since 8.1 fetch the CA and its revocation lists by themselves, once a day; here they get them with the next run. Agents 6,
# 7 and 8.0 never do. Agents 5 read one revocation list only and never fetch another: they stop looking at it, or they could not
# accept servers of two issuers in turn.
class troupe_rollover (
  String        $issuer = @ISSUER@,
  Array[String] $cas    = [@CAS@],
  Array[String] $lists  = [@LISTS@],
) {
  $own = $facts['troupe_rollover']

  if $own {
    if versioncmp($facts['puppetversion'], '6.0.0') < 0 {
      unless $own['revocation'] == 'false' {
        exec { 'troupe_rollover: look at no revocation list':
          command => "puppet config set certificate_revocation false --section agent --confdir ${own['confdir']}",
          path    => ['/opt/puppetlabs/bin', '/usr/local/bin', '/usr/bin', '/bin'],
          tag     => 'troupe_rollover_lists',
        }
      }
    } elsif $lists - $own['crl'] != [] {
      file { $own['hostcrl']:
        content => file('troupe_rollover/crl.pem'),
        backup  => false,
        tag     => 'troupe_rollover_lists',
      }
    }

    if $cas - $own['ca'] != [] or $own['ca'] - $cas != [] {
      file { $own['localcacert']:
        content => file('troupe_rollover/ca.pem'),
        backup  => false,
        tag     => 'troupe_rollover_ca',
      }
    }

    # The new certificate is for the key that the agent has: it is found by that key.
    $certificate = find_file("troupe_rollover/certs/${own['key']}.pem")
    if $own['issuer'] != $issuer and $certificate {
      file { $own['hostcert']:
        content => file($certificate),
        backup  => false,
        tag     => 'troupe_rollover_certificate',
      }
    }

    # The lists before the CA, and the CA before the certificate: what is cut off in between leaves nothing that the next run
    # cannot verify.
    Exec <| tag == 'troupe_rollover_lists' |> -> File <| tag == 'troupe_rollover_ca' |> -> File <| tag == 'troupe_rollover_certificate' |>
    File <| tag == 'troupe_rollover_lists' |> -> File <| tag == 'troupe_rollover_ca' |>
    File <| tag == 'troupe_rollover_lists' |> -> File <| tag == 'troupe_rollover_certificate' |>
  }
}
