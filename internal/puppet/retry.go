package puppet

import (
	"slices"
	"strconv"
	"strings"
)

// This file knows which agents can be sent away for a while.

// ObeysRetryAfter reports whether an agent of this version (its X-Puppet-Version)
// waits after a 503 or 429 with Retry-After and tries again. Agents do so from
// 5.3.1 on, but from 6.14.0 (8639f0c5) until 7.26.0 and 8.2.0 (PUP-11853,
// 7826d00c) they close the connection before they have read the answer: they
// sleep, and then the request fails. No version of 6.x mended that. Whoever says
// no version, or one that is unknown, is not expected back.
func ObeysRetryAfter(version string) bool {
	core, _, _ := strings.Cut(version, "-")
	parts := strings.Split(core, ".")
	if len(parts) != 3 {
		return false
	}
	v := make([]int, len(parts))
	for i, p := range parts {
		n, err := strconv.Atoi(p)
		if err != nil || n < 0 {
			return false
		}
		v[i] = n
	}
	from := func(first ...int) bool { return slices.Compare(v, first) >= 0 }
	switch v[0] {
	case 5, 6:
		return from(5, 3, 1) && !from(6, 14)
	case 7:
		return from(7, 26)
	default:
		return from(8, 2)
	}
}
