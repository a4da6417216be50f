#!/bin/sh
# Runs a program inside one of the chroots that make.sh built.
#
# usage (as root): enter.sh RELEASE PROGRAM [ARGUMENT]...
#
# The program sees /proc, /sys, a /tmp of its own, and the folders in TROUPE_BIND (a list separated by colons) at the
# same paths as on the machine. The mounts live in a mount namespace of their own and end with the program: nothing
# stays mounted, and a signal or an exit status passes through because every step replaces the shell. The network is
# that of the caller, so a server on the machine's loopback address is reachable.
set -eu

die() { printf 'chroots: %s\n' "$*" >&2; exit 125; }

[ $# -ge 2 ] || die "usage: enter.sh RELEASE PROGRAM [ARGUMENT]..."
root=${TROUPE_CHROOTS:-/var/cache/troupe/chroots}/$1
shift
[ -f "$root/.troupe-chroot" ] || die "$root is missing or incomplete: run tools/chroots/make.sh ${root##*/} as root"
[ "$(id -u)" = 0 ] || die "entering $root needs root"

# shellcheck disable=SC2016 # expanded by the inner shell
exec unshare --mount --propagation private sh -eu -c '
	root=$1
	shift
	mount -t proc proc "$root/proc"
	mount -t sysfs -o ro sysfs "$root/sys"
	mount -t tmpfs -o mode=1777 tmpfs "$root/tmp" # also takes the mount points below, which so leave no trace
	IFS=:
	for folder in ${TROUPE_BIND:-}; do
		mkdir -p "$root$folder"
		mount --bind "$folder" "$root$folder"
	done
	unset IFS
	exec chroot "$root" "$@"
' enter "$root" "$@"
