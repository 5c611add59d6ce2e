package policy

import (
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// A slow, obvious bucket and the real one admit the same, within one unit of rounding.
func TestBucket(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate := rapid.Uint64Range(1, 1_000_000).Draw(t, "rate")
		burst := rapid.Uint64Range(1, 1000).Draw(t, "burst")
		var b Bucket
		b.Set(rate, burst)
		tokens, now := float64(burst), time.Hour
		for range 50 {
			gap := time.Duration(rapid.Int64Range(0, int64(time.Second/10)).Draw(t, "gap"))
			n := rapid.Uint64Range(1, 100).Draw(t, "n")
			now += gap
			tokens = min(float64(burst), tokens+gap.Seconds()*float64(rate))
			want := tokens >= float64(min(n, burst)) // more than the burst goes into debt
			near := tokens > float64(min(n, burst))-0.01 && tokens < float64(min(n, burst))+0.01
			got := b.Take(n, now)
			if got != want && !near {
				t.Fatalf("took %d: %v, there were %f", n, got, tokens)
			}
			if got {
				tokens -= float64(n)
			}
		}
	})
}

func TestBucketWithoutLimit(t *testing.T) {
	var b Bucket
	if !b.Take(1<<60, 0) {
		t.Error("no limit refuses")
	}
	b.Set(5, 5)
	if !b.Take(5, time.Hour) || b.Take(1, time.Hour) || !b.Take(1, time.Hour+200*time.Millisecond) {
		t.Error("five a second are not five")
	}
	var huge Bucket
	huge.Set(1, 1<<63)
	if !huge.Take(1<<62, time.Hour) {
		t.Error("a huge burst overflows")
	}
}

// Whatever the limit and the packet: it passes some time, and what it has used is paid for before the next.
func TestBucketExtremes(t *testing.T) {
	const super = 65536 * 8
	for _, c := range []struct {
		name           string
		rate, burst, n uint64
		wait           time.Duration // until another n may pass, from the first
	}{
		{"a super-packet at a bit a second", 1, minBurst, super, 0},
		{"more than the burst", 10, 5, 50, 5 * time.Second},
		{"a packet a second", 1, 1, 1, time.Second},
		{"8 bit/s and nothing at once", 8, 8, super, super / 8 * time.Second},
		{"one a nanosecond", 1_000_000_000, 1, 1, 1},
		{"more than one a nanosecond", 1 << 60, 1, 1, 1}, // which is a limit all the same
		{"the largest rate", math.MaxUint64, 1, math.MaxUint64, time.Second},
		{"the largest packet", 1, 1, math.MaxUint64, maxPrice},
	} {
		var b Bucket
		b.Set(c.rate, c.burst)
		now := 100 * 365 * 24 * time.Hour
		if !b.Take(c.n, now) {
			t.Errorf("%s: stuck", c.name)
		}
		if c.wait > 0 && b.Take(c.n, now+c.wait-1) {
			t.Errorf("%s: the next passes before %v", c.name, c.wait)
		}
		if !b.Take(c.n, now+c.wait) {
			t.Errorf("%s: the next does not pass after %v", c.name, c.wait)
		}
	}
}

// A goroutine that has read the clock before another gets neither more nor, later, less.
func TestBucketClock(t *testing.T) {
	var b Bucket
	b.Set(1000, 10)
	passed := 0
	for i := range 1000 {
		if b.Take(1, time.Hour-time.Duration(i%2)*time.Second) { // every other a second late
			passed++
		}
	}
	if passed != 10 {
		t.Errorf("%d passed, want the burst", passed)
	}
	if !b.Take(10, time.Hour+10*time.Millisecond) || b.Take(1, time.Hour+10*time.Millisecond) {
		t.Error("it has not filled as it should")
	}
}

// What one limit refuses, the others have not counted.
func TestMeterAllOrNothing(t *testing.T) {
	var p Packet
	p.Parse(v4(17, udp(1000), nil), Offload{})
	bits := 8 * uint64(len(p.Frame))
	passing := func(l Limits) (n int) {
		var m Meter
		m.Set(l)
		for m.Admit(&p, Egress, true, time.Hour) == None {
			n++
		}
		for range 1000 {
			m.Admit(&p, Egress, true, time.Hour)
		}
		for _, b := range []*Bucket{&m.Packets[Egress], &m.Bandwidth[Egress], &m.NewFlows[Egress]} {
			unit := uint64(1)
			if b == &m.Bandwidth[Egress] {
				unit = bits
			}
			taken := time.Duration(b.price(unit) * int64(n))
			if got := time.Duration(b.paid.Load()) - time.Hour; b.cost != 0 && got != taken {
				t.Errorf("%+v: %d packets of %v passed, and %v are owed", l, n, time.Duration(b.price(unit)), got)
			}
		}
		return n
	}
	for _, c := range []struct {
		l    Limits
		want int
	}{
		{Limits{Packets: 100, Bandwidth: 1_000_000_000, NewFlows: 1000}, 64},
		{Limits{Packets: 1_000_000, Bandwidth: 1, NewFlows: 1000}, int(minBurst / bits)},
		{Limits{Packets: 1_000_000, Bandwidth: 1_000_000_000, NewFlows: 20}, 20},
	} {
		if n := passing(c.l); n != c.want {
			t.Errorf("%+v: %d passed, want %d", c.l, n, c.want)
		}
	}
}

// However many take at the same time, no more is admitted than there is.
func TestBucketConcurrent(t *testing.T) {
	var b Bucket
	b.Set(1000, 1000)
	var got atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 1000 {
				if b.Take(1, time.Minute) {
					got.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if got.Load() != 1000 {
		t.Errorf("%d admitted, want 1000", got.Load())
	}
}

// A super-packet counts as the frames that it becomes.
func TestWireCost(t *testing.T) {
	var p Packet
	plain := v4(17, udp(100), nil)
	if p.Parse(plain, Offload{}); true {
		if n, bytes := p.WireCost(); n != 1 || bytes != uint64(len(plain)) {
			t.Errorf("%d frames, %d bytes", n, bytes)
		}
	}
	f := v4(6, append(tcp(0x10), make([]byte, 10*1448+1)...), nil)
	if r := p.Parse(f, Offload{Flags: NeedsCsum, GSOType: GSOTCPv4, GSOSize: 1448, HdrLen: 54, CsumStart: 34, CsumOffset: 16}); r != None {
		t.Fatal(r)
	}
	if n, bytes := p.WireCost(); n != 11 || bytes != 11*54+10*1448+1 {
		t.Errorf("%d frames, %d bytes", n, bytes)
	}
	var m Meter
	m.Set(Limits{Packets: 100})
	allowed := 0
	for range 100 {
		if m.Admit(&p, Egress, false, time.Minute) == None {
			allowed++
		}
	}
	if allowed != 64/11 {
		t.Errorf("%d super-packets of 11 frames passed a burst of 64", allowed)
	}
	if m.Admit(&p, Ingress, false, time.Minute) != None {
		t.Error("the other direction has not its own share")
	}
	m.Set(Limits{Bandwidth: 8_000_000})
	if m.Admit(&p, Egress, false, time.Minute) != None {
		t.Error("a super-packet does not pass a limit of 8 Mbit/s at all")
	}
	if n := testing.AllocsPerRun(100, func() { m.Admit(&p, Egress, false, time.Minute) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkMeter(b *testing.B) {
	var p Packet
	p.Parse(v4(17, udp(100), nil), Offload{})
	var m Meter
	m.Set(Limits{Packets: 1 << 40, Bandwidth: 1 << 50})
	now := time.Duration(0)
	for b.Loop() {
		now += 100
		m.Admit(&p, Egress, false, now)
	}
}
