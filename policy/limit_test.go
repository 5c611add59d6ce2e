package policy

import (
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
			want := tokens >= float64(n)
			near := tokens > float64(n)-0.01 && tokens < float64(n)+0.01
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
	if b.Take(6, time.Hour) || !b.Take(5, time.Hour) || b.Take(1, time.Hour) || !b.Take(1, time.Hour+200*time.Millisecond) {
		t.Error("five a second are not five")
	}
	var huge Bucket
	huge.Set(1, 1<<63)
	if !huge.Take(1<<62, time.Hour) {
		t.Error("a huge burst overflows")
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
		if m.Admit(&p, Egress, time.Minute) == None {
			allowed++
		}
	}
	if allowed != 64/11 {
		t.Errorf("%d super-packets of 11 frames passed a burst of 64", allowed)
	}
	if m.Admit(&p, Ingress, time.Minute) != None {
		t.Error("the other direction has not its own share")
	}
	m.Set(Limits{Bandwidth: 8_000_000})
	if m.Admit(&p, Egress, time.Minute) != None {
		t.Error("a super-packet does not pass a limit of 8 Mbit/s at all")
	}
	if n := testing.AllocsPerRun(100, func() { m.Admit(&p, Egress, time.Minute) }); n != 0 {
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
		m.Admit(&p, Egress, now)
	}
}
