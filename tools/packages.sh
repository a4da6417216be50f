#!/bin/sh
# Installs the Debian 12 packages that the tests and the demo need: the agent, the real CA command line, modules and
# the means to build chroots. Returns at once when all are there.
#
# usage (as root): packages.sh [PACKAGE]...    further packages, for example puppetserver for the long tests
set -eu

packages="puppet-agent hiera-eyaml ruby-puppetserver-ca-cli debootstrap util-linux nftables iproute2 openssl r10k git bind9-dnsutils
	puppet-module-puppetlabs-stdlib puppet-module-puppetlabs-concat puppet-module-puppetlabs-host-core
	puppet-module-puppetlabs-cron-core puppet-module-puppetlabs-sshkeys-core puppet-module-puppetlabs-firewall
	puppet-module-aboe-chrony puppet-module-puppetlabs-apache puppet-module-puppetlabs-apt
	puppet-module-puppetlabs-ntp $*"

missing=
for package in $packages; do
	# The state is asked for, because a removed package still has an entry.
	state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) || state=
	[ "$state" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

die() { printf 'packages: %s\n' "$*" >&2; exit 1; }
[ "$(id -u)" = 0 ] || die "installing packages needs root; missing:$missing"
command -v apt-get >/dev/null || die "this needs Debian's apt-get; install by other means:$missing"

printf 'packages: installing%s (about 20 s)\n' "$missing"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# Package lists may be old, or absent in a fresh container: they are fetched only if the first attempt fails.
# shellcheck disable=SC2086 # a list of package names
apt-get install -y --no-install-recommends $missing >"$log" 2>&1 ||
	{ apt-get update && apt-get install -y --no-install-recommends $missing; } >"$log" 2>&1 ||
	{ tail -n 15 "$log" >&2; die "apt-get could not install$missing"; }
echo "packages: done"
