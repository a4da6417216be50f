package puppet

import "testing"

func TestOnlyAgentsThatComeBackAreSentAway(t *testing.T) {
	for version, want := range map[string]bool{
		"4.10.12": false, "5.2.0": false, "5.3.0": false, "5.3.1": true, "5.5.22": true, // from 5.3.1 on
		"6.0.0": true, "6.13.0": true, "6.14.0": false, "6.29.0": false, // 6.14.0 brought PUP-11853
		"7.0.0": false, "7.23.0": false, "7.25.0": false, "7.26.0": true, "7.34.0": true, // 7.26.0 mended it
		"8.0.0": false, "8.1.0": false, "8.2.0": true, "8.10.0": true, "8.11.0": true, // so did 8.2.0, and OpenVox begins later
		"9.0.0-rc1": true, "10.0.0": true,
		"": false, "7.26": false, "7.26.0.12": false, "new": false, "8.x.0": false, "8.-2.0": false,
	} {
		if got := ObeysRetryAfter(version); got != want {
			t.Errorf("ObeysRetryAfter(%q) = %v, want %v", version, got, want)
		}
	}
}
