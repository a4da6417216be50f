#!/bin/sh
# Builds the chroots in which agents of other Puppet generations run on a Debian 12 machine:
#
#   bullseye  puppet 5.5         trixie  puppet-agent 8.10         forky  openvox-agent 9
#
# and, only when it is named, trixie-server with puppetserver 8.7: 650 MB more.
#
# usage (as root): make.sh [bullseye|trixie|forky|trixie-server]...    without names: the three with agents
#
# They lie in TROUPE_CHROOTS (default /var/cache/troupe/chroots) and stay between test runs: a chroot whose marker
# shows today's recipe is left alone, so a second call ends at once. About 35 s and 400 MB each. A chroot appears
# under its name only when it is complete. Run programs in one with enter.sh, which gives them /proc.
set -eu

recipe=2 # raise it when a step below changes: every chroot is then built anew
chroots=${TROUPE_CHROOTS:-/var/cache/troupe/chroots}

say() { printf 'chroots: %s\n' "$*"; }
die() { printf 'chroots: %s\n' "$*" >&2; exit 1; }

packages_of() {
	case $1 in
	bullseye) echo puppet ;;
	trixie) echo puppet-agent ruby-puppetserver-ca-cli hiera-eyaml ;;
	forky) echo openvox-agent ;;
	trixie-server) echo puppet-agent puppetserver puppet-terminus-puppetdb hiera-eyaml ;;
	*) die "unknown chroot $1; known are bullseye, trixie, forky and trixie-server" ;;
	esac
}

# The release that a chroot is made of.
release_of() { echo "${1%-server}"; }

marker_of() { echo "recipe $recipe: $(packages_of "$1")"; }

ready() {
	[ -f "$chroots/$1/.troupe-chroot" ] && [ "$(head -n 1 "$chroots/$1/.troupe-chroot")" = "$(marker_of "$1")" ]
}

# The mirror that releases are fetched from: TROUPE_DEBIAN_MIRROR, or else where this machine's own packages come from,
# which is the first of apt's sources whose path ends in /debian.
mirror() {
	found=${TROUPE_DEBIAN_MIRROR:-$(
		cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null |
			sed -n -e 's/^deb \(\[[^]]*\] *\)\{0,1\}\([^ ]*\/debian\)\/\{0,1\} .*/\2/p' \
				-e 's/^URIs: *\([^ ]*\/debian\)\/\{0,1\} *$/\1/p' | head -n 1
	)}
	[ -n "$found" ] || die "no Debian mirror in apt's sources: set TROUPE_DEBIAN_MIRROR to the URL of one, the folder that has dists/ and pool/"
	echo "$found"
}

# debootstrap of Debian 12 has no script for releases that came after it; all of them use sid's.
script_of() {
	scripts=/usr/share/debootstrap/scripts
	if [ -e "$scripts/$1" ]; then echo "$scripts/$1"; else echo "$scripts/sid"; fi
}

# Only one process at a time may write the folder of a release; the loser waits and then finds it complete.
build() (
	release=$1
	root=$chroots/$release.partial
	log=$chroots/$release.log
	exec 9>"$chroots/$release.lock"
	flock 9
	if ready "$release"; then
		say "$release was completed by another process"
		return 0
	fi
	from=$(mirror) # what it says when there is none ends the build

	trap 'umount "$root/proc" 2>/dev/null || :' EXIT
	umount "$root/proc" 2>/dev/null || :
	rm -rf "$root"
	: >"$log"

	say "$release: fetching the base system (about 25 s; log in $log)"
	debootstrap --variant=minbase --include=ca-certificates "$(release_of "$release")" "$root" "$from" \
		"$(script_of "$(release_of "$release")")" \
		>>"$log" 2>&1 || failed "$release" "$log" "debootstrap"

	# The machine's own resolver and apt settings (proxies, registries) hold inside as well.
	cp -L /etc/resolv.conf "$root/etc/resolv.conf"
	printf '127.0.0.1 localhost\n::1 localhost\n' >"$root/etc/hosts" # a minimal system has none
	if [ -f /etc/apt/apt.conf ]; then cp /etc/apt/apt.conf "$root/etc/apt/"; fi
	for folder in apt.conf.d auth.conf.d; do
		if [ -d "/etc/apt/$folder" ]; then cp -R "/etc/apt/$folder/." "$root/etc/apt/$folder/"; fi
	done
	printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d" # no service may start
	chmod 755 "$root/usr/sbin/policy-rc.d"

	say "$release: installing $(packages_of "$release") (about 10 s)"
	mount -t proc proc "$root/proc" # the post-install script of openvox-agent needs it
	export DEBIAN_FRONTEND=noninteractive LC_ALL=C
	chroot "$root" apt-get update >>"$log" 2>&1 || failed "$release" "$log" "apt-get update"
	# shellcheck disable=SC2046 # a list of package names
	chroot "$root" apt-get install -y --no-install-recommends $(packages_of "$release") \
		>>"$log" 2>&1 || failed "$release" "$log" "apt-get install"
	version=$(chroot "$root" puppet --version 2>>"$log") || failed "$release" "$log" "puppet --version"
	umount "$root/proc"

	marker_of "$release" >"$root/.troupe-chroot"
	echo "puppet $version" >>"$root/.troupe-chroot"
	rm -rf "${chroots:?}/$release"
	mv "$root" "$chroots/$release"
	say "$release: puppet $version is ready in $chroots/$release"
)

failed() {
	tail -n 15 "$2" >&2
	die "$1: $3 failed; the whole log is in $2. The next call starts this chroot anew."
}

[ $# -gt 0 ] || set -- bullseye trixie forky
for release; do packages_of "$release" >/dev/null; done

missing=
for release; do
	if ready "$release"; then
		say "$release is there: $(sed -n 2p "$chroots/$release/.troupe-chroot")"
	else
		missing="$missing $release"
	fi
done
[ -n "$missing" ] || exit 0

[ "$(id -u)" = 0 ] || die "building chroots needs root; missing:$missing"
for program in debootstrap chroot flock mount; do
	command -v "$program" >/dev/null || die "$program is missing: run tools/packages.sh first"
done
mkdir -p "$chroots"
for release in $missing; do build "$release"; done
