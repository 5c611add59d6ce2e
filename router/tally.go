package router

import "udrouter/policy"

// tally collects what one guest after the other has sent and been sent, so that workers that have packets of the same guest do not contend for its
// counters with each packet.
type tally struct {
	guest            *policy.Guest
	rx, tx           uint64
	rxBytes, txBytes uint64
}

func (t *tally) sent(g *policy.Guest, bytes int) {
	t.of(g)
	t.tx++
	t.txBytes += uint64(bytes)
}

func (t *tally) received(g *policy.Guest, bytes int) {
	t.of(g)
	t.rx++
	t.rxBytes += uint64(bytes)
}

func (t *tally) of(g *policy.Guest) {
	if t.guest != g {
		t.settle()
		t.guest = g
	}
}

// settle adds what was collected to the guest's counters.
func (t *tally) settle() {
	if t.rx > 0 {
		t.guest.Counters.RxPackets.Add(t.rx)
		t.guest.Counters.RxBytes.Add(t.rxBytes)
	}
	if t.tx > 0 {
		t.guest.Counters.TxPackets.Add(t.tx)
		t.guest.Counters.TxBytes.Add(t.txBytes)
	}
	*t = tally{}
}
