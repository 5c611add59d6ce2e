package integration

import (
	"net/netip"
	"testing"
	"time"

	"udrouter/integration/lab"
)

// BenchmarkTCP prints the throughput of one TCP connection between a guest and the internet through the router, in
// Gbit/s, and beside it that of the kernel's own forwarding in the same run. Only their ratio says something on a machine
// that others use as well.
func BenchmarkTCP(b *testing.B) {
	for _, c := range []struct {
		name string
		v6   bool
		down bool
	}{{"up4", false, false}, {"down4", false, true}, {"up6", true, false}, {"down6", true, true}} {
		b.Run(c.name, func(b *testing.B) {
			router, kernel := buildLab(b, "", lab.Options{}), buildLab(b, "", lab.Options{})
			startRouter(b, router)
			must(b, kernel.KernelRouter(lab.KernelOptions{Isolate: true}))
			var sum [2]float64
			n := 0
			for b.Loop() {
				for i, l := range []*lab.Lab{router, kernel} {
					sum[i] += throughput(b, l, c.v6, c.down)
				}
				n++
			}
			b.ReportMetric(sum[0]/float64(n)/1e9, "Gbit/s")
			b.ReportMetric(sum[1]/float64(n)/1e9, "kernel-Gbit/s")
			b.ReportMetric(sum[0]/sum[1], "ratio")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func throughput(b *testing.B, l *lab.Lab, v6, down bool) float64 {
	b.Helper()
	const port, measured = 443, 2 * time.Second
	_, err := l.Internet.ServeTCP(port)
	must(b, err)
	addr := l.Internet.Addr4()
	if v6 {
		addr = l.Internet.Addr6()
	}
	to := netip.AddrPortFrom(addr, port)
	guest := l.Guests[0].Node
	if down {
		bits, err := guest.ThroughputFrom(testContext(b), to, measured)
		must(b, err)
		return bits
	}
	bits, err := guest.Throughput(testContext(b), to, measured)
	must(b, err)
	return bits
}
