#!/bin/sh
# Moves from the fuzzer's cache into testdata/fuzz, where `go test` replays it, what covers code that the seeds and the
# files before it do not: of each target a sample of the cache, smallest inputs first.
#
# usage: fuzz-corpus.sh [TARGET]...    such as FuzzYAML; without one, all that the cache has
set -eu
sample=60   # inputs of a target that are tried
largest=4k  # bytes of one
cd "$(dirname "$0")/.."
root=$PWD
cache=$(go env GOCACHE)/fuzz/$(go list -m)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# covered prints the blocks that a profile says were run.
covered() { awk 'NR > 1 && $NF > 0 { print $1 }' "$1" | sort -u; }

find "$cache" -mindepth 2 -type d -name 'Fuzz*' | sort | while read -r from; do
	target=$(basename "$from")
	dir=$(dirname "${from#"$cache"/}")
	case " ${*:-$target} " in *" $target "*) ;; *) continue ;; esac
	grep -qs "^func $target(" "$dir"/*_test.go || continue
	to=$root/$dir/testdata/fuzz/$target
	mkdir -p "$to"
	go test -c -cover -o "$work/test" "./$dir"
	cd "$root/$dir"
	"$work/test" -test.run="^$target\$" -test.coverprofile="$work/profile" >"$work/out" || { cat "$work/out"; exit 1; }
	covered "$work/profile" >"$work/seen"

	find "$from" -type f -size -"$largest" -printf '%s %p\n' | sort -n >"$work/all"
	step=$(($(wc -l <"$work/all") / sample + 1))
	kept=0
	for file in $(awk -v step="$step" 'NR % step == 0 { print $2 }' "$work/all"); do
		name=$(basename "$file")
		[ ! -e "$to/$name" ] || continue
		cp "$file" "$to/$name"
		"$work/test" -test.run="^$target\$/^$name\$" -test.coverprofile="$work/profile" >"$work/out" || { cat "$work/out"; exit 1; }
		covered "$work/profile" >"$work/now"
		if [ -n "$(comm -13 "$work/seen" "$work/now")" ]; then
			sort -u "$work/seen" "$work/now" -o "$work/seen"
			kept=$((kept + 1))
		else
			rm "$to/$name"
		fi
	done
	rmdir "$to" 2>/dev/null || true
	rmdir "$root/$dir/testdata/fuzz" 2>/dev/null || true
	cd "$root"
	echo "$dir $target: $kept of $(wc -l <"$work/all") inputs kept"
done
