package journal

import (
	"fmt"
	"strings"
	"testing"
)

// BenchmarkAppend measures durable appends: every one waits for its fsync.
func BenchmarkAppend(b *testing.B) {
	bodies := map[string][]byte{
		"1KB":   []byte(strings.Repeat("0123456789abcdef", 63)),
		"100KB": []byte(strings.Repeat(`"interfaces":{"eth0":{"ip":"10.0.0.1","mtu":1500}},`, 2000)),
	}
	for _, size := range []string{"1KB", "100KB"} {
		for _, callers := range []int{1, 64} {
			b.Run(fmt.Sprintf("body=%s/callers=%d", size, callers), func(b *testing.B) {
				j := open(b, b.TempDir(), Options{})
				next := make(chan struct{})
				failed := make(chan error, callers)
				for range callers {
					go func() {
						var err error
						for range next {
							if err == nil {
								_, err = j.Append(b.Context(), Draft{Stream: Bulk, Kind: "facts", Key: "web1.example.com", Body: bodies[size]})
							}
						}
						failed <- err
					}()
				}
				for b.Loop() {
					next <- struct{}{}
				}
				close(next)
				for range callers {
					if err := <-failed; err != nil {
						b.Error(err)
					}
				}
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "appends/s")
			})
		}
	}
}
