package haproxy

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"troupe/internal/config"
)

// This file reads times, sizes and addresses.

var errVariable = errors.New("it has a variable of HAProxy's environment, which is not known here: write its value into the file first")

// duration reads a time; a bare number is of milliseconds.
func duration(text string) (config.Duration, error) {
	unit := time.Millisecond
	if strings.Contains(text, "$") {
		return 0, errVariable
	}
	digits := len(text) - len(strings.TrimLeft(text, "0123456789"))
	switch text[digits:] {
	case "":
	case "ms":
	case "us":
		unit = time.Microsecond
	case "s":
		unit = time.Second
	case "m":
		unit = time.Minute
	case "h":
		unit = time.Hour
	case "d":
		unit = 24 * time.Hour
	default:
		digits = 0
	}
	n, err := strconv.ParseInt(text[:digits], 10, 64)
	if err != nil || n > int64(math.MaxInt32) || n > int64(math.MaxInt64)/int64(unit) {
		return 0, fmt.Errorf("%q is not a time such as 500, 10s or 5m", clip(text))
	}
	d := time.Duration(n) * unit
	if d%time.Millisecond != 0 {
		d = d.Truncate(time.Millisecond) + time.Millisecond
	}
	return config.Duration(d), nil
}

// number reads a number from least to most; "200k" are 204,800.
func number(text string, least, most int) (int, error) {
	if strings.Contains(text, "$") {
		return 0, errVariable
	}
	digits, unit := text, 1
	if n := len(text) - 1; n > 0 {
		switch text[n] {
		case 'k', 'K':
			digits, unit = text[:n], 1<<10
		case 'm', 'M':
			digits, unit = text[:n], 1<<20
		case 'g', 'G':
			digits, unit = text[:n], 1<<30
		}
	}
	n, err := strconv.ParseUint(digits, 10, 31)
	if err != nil || n*uint64(unit) > math.MaxInt32 || int(n)*unit < least || int(n)*unit > most {
		return 0, fmt.Errorf("%q is not a number from %d to %d", clip(text), least, most)
	}
	return int(n) * unit, nil
}

// errNoNetwork are addresses that are not of IP.
var errNoNetwork = errors.New("an edge takes addresses of IP and names, no sockets of the file system and no file descriptors")

// address reads host:port as HAProxy has it: the last colon counts, also behind an IPv6 address without brackets. The port may be missing.
// A host of "" or "*" is any address.
func address(text string) (host, port string, err error) {
	for _, family := range []string{"ipv4@", "ipv6@", "tcp4@", "tcp6@", "tcp@"} {
		text = strings.TrimPrefix(text, family)
	}
	switch {
	case strings.Contains(text, "$"):
		return "", "", errVariable
	case strings.Contains(text, "@") || strings.HasPrefix(text, "/"):
		return "", "", errNoNetwork
	}
	host = text
	if i := strings.LastIndexByte(text, ':'); i >= 0 && !strings.HasSuffix(text, "]") {
		host, port = text[:i], text[i+1:]
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if host == "*" {
		host = ""
	}
	if strings.ContainsAny(host, " \t\r\n/[]%") || strings.Contains(host, ":") && !isIP(host) || len(host) > 255 {
		return "", "", fmt.Errorf("%q is no address", clip(text))
	}
	if port != "" {
		digits := port
		if strings.ContainsAny(port[:1], "+-") { // from the port that the client came to
			digits = port[1:]
		}
		if n, perr := strconv.ParseUint(digits, 10, 16); perr != nil || n == 0 {
			return "", "", fmt.Errorf("the port %q is not a number from 1 to 65535", clip(port))
		}
	}
	return host, port, nil
}

func isIP(text string) bool {
	_, err := netip.ParseAddr(text)
	return err == nil
}

// join puts host and port together as an edge has them.
func join(host, port string) string {
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return host + ":" + port
}

// network reads an address or a network of an ACL: 192.0.2.1, 192.0.2.0/24, 192.0.2.0/255.255.255.0.
func network(text string) (netip.Prefix, error) {
	bad := fmt.Errorf("%q is neither an address nor a network", clip(text))
	base, bits, ranged := strings.Cut(text, "/")
	addr, err := netip.ParseAddr(base)
	if err != nil || addr.Zone() != "" {
		return netip.Prefix{}, bad
	}
	n := addr.BitLen()
	if ranged {
		if mask, merr := netip.ParseAddr(bits); merr == nil && mask.Is4() && addr.Is4() {
			if n = maskBits(mask); n < 0 {
				return netip.Prefix{}, bad
			}
		} else if n, err = strconv.Atoi(bits); err != nil {
			return netip.Prefix{}, bad
		}
	}
	p, err := addr.Prefix(n)
	if err != nil {
		return netip.Prefix{}, bad
	}
	return p, nil
}

// maskBits is the length of a netmask; -1 for one with holes.
func maskBits(mask netip.Addr) int {
	var all uint32
	for _, b := range mask.As4() {
		all = all<<8 | uint32(b)
	}
	for n := range 33 {
		if all == uint32(uint64(math.MaxUint32)<<(32-n)) {
			return n
		}
	}
	return -1
}

// oneOf is for settings of a few words.
func oneOf(value string, words ...string) error {
	if !slices.Contains(words, value) {
		return fmt.Errorf("%q is not one of %s", clip(value), strings.Join(words, ", "))
	}
	return nil
}
