package dns

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"
)

func TestTheTableOfNetworksDoesNotGrowForEver(t *testing.T) {
	l := newLimiter(1)
	now := time.Unix(1e9, 0)
	for i := range uint32(3 * maxBuckets) {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], i<<8)
		if got := l.judge(netip.AddrFrom4(a), now); got != allowed {
			t.Fatalf("network %d is judged %v at its first question, want allowed", i, got)
		}
		if len(l.buckets) > maxBuckets {
			t.Fatalf("%d networks are remembered, want at most %d", len(l.buckets), maxBuckets)
		}
	}
}

func TestALimitedNetworkComesBackAndOthersAreNotTouched(t *testing.T) {
	l := newLimiter(5)
	now := time.Unix(1e9, 0)
	noisy, neighbour, other := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.200"), netip.MustParseAddr("10.0.1.1")
	count := map[verdict]int{}
	for range 30 {
		count[l.judge(noisy, now)]++
	}
	if count[allowed] != 10 || count[slipped] != 10 || count[silent] != 10 {
		t.Errorf("30 questions at once are judged %v, want 10 answers, 10 hints, 10 drops", count)
	}
	if got := l.judge(neighbour, now); got == allowed {
		t.Error("another address of the same network is not limited")
	}
	if got := l.judge(other, now); got != allowed {
		t.Errorf("another network is judged %v", got)
	}
	six, sixNeighbour := netip.MustParseAddr("2001:db8:0:100::1"), netip.MustParseAddr("2001:db8:0:1ff::1")
	for range 10 {
		l.judge(six, now)
	}
	if got := l.judge(sixNeighbour, now); got == allowed {
		t.Error("a /56 is counted as several networks")
	}
	if got := l.judge(noisy, now.Add(time.Second)); got != allowed {
		t.Errorf("after a second the network is judged %v, want allowed", got)
	}
	if got := l.judge(noisy, now.Add(-time.Hour)); got != allowed {
		t.Errorf("after the clock went back it is judged %v, want what is left of its tokens", got)
	}
	if got := newLimiter(-1).judge(noisy, now); got != allowed {
		t.Errorf("without a limit: %v", got)
	}
}
