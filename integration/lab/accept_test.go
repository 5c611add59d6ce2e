package lab

import (
	"net/netip"
	"testing"

	"udrouter/config"
	"udrouter/policy"
)

func TestAllows(t *testing.T) {
	cfg := seed()
	cfg.Policies = append(cfg.Policies, policy.Policy{
		Name:   "strange",
		Egress: policy.Chain{Default: policy.Drop},
		Ingress: policy.Chain{Default: policy.Drop, Rules: []policy.Rule{
			{Action: policy.Drop, Proto: protoTCP, Ports: []policy.PortRange{{First: 7000, Last: 7000}}},
			{Action: policy.Accept, Proto: protoTCP, Ports: []policy.PortRange{{First: 7000, Last: 7005}}, From: []policy.Peer{{Kind: policy.PeerUplink}}},
			{Action: policy.Accept, Proto: policy.AnyProto, From: []policy.Peer{{Kind: policy.PeerDomu, Domu: "one"}}},
			{Action: policy.Accept, Proto: protoUDP, From: []policy.Peer{{Kind: policy.PeerHost}}, To: []policy.Peer{{Kind: policy.PeerPrefix, Prefix: netip.MustParsePrefix("2001:db8::/32")}}},
		}},
	})
	cfg.Domus[1].Policy = "strange"
	shadow := cfg.Policies[1]
	shadow.Name, shadow.Mode = "shadow", policy.Shadow
	cfg.Policies = append(cfg.Policies, shadow)
	cfg.Domus = append(cfg.Domus, config.Domu{Name: "three", Policy: "shadow"})
	l := &Lab{Config: cfg}
	one := party{kind: policy.PeerDomu, domu: &cfg.Domus[0], addr: addr("192.0.2.10")}
	two := party{kind: policy.PeerDomu, domu: &cfg.Domus[1], addr: addr("192.0.2.11")}
	two6 := party{kind: policy.PeerDomu, domu: &cfg.Domus[1], addr: addr("2001:db8:3:2:1::11")}
	three := party{kind: policy.PeerDomu, domu: &cfg.Domus[2], addr: addr("192.0.2.12")}
	x := party{kind: policy.PeerUplink, addr: addr("198.51.100.7")}
	dom0 := party{kind: policy.PeerHost, addr: addr("192.0.1.3")}
	for _, c := range []struct {
		name     string
		from, to party
		proto    int
		port     uint16
		want     bool
	}{
		{"web from the internet", x, one, protoTCP, 443, true},
		{"another port", x, one, protoTCP, 444, false},
		{"ping", x, one, protoICMP, 0, true},
		{"UDP", x, one, protoUDP, 443, false},
		{"out", one, x, protoTCP, 80, true},
		{"mail", one, x, protoTCP, 25, false},
		{"first match", x, two, protoTCP, 7000, false},
		{"a range's end", x, two, protoTCP, 7005, true},
		{"a range from elsewhere", dom0, two, protoTCP, 7005, false},
		{"a neighbour", one, two, protoTCP, 9, true},
		{"a neighbour that may not", two, one, protoTCP, 80, false},
		{"the host, wrong family", dom0, two, protoUDP, 5, false},
		{"the host", dom0, two6, protoUDP, 5, true},
		{"to shadow mode", x, three, protoTCP, 7000, true},
		{"from shadow mode", three, x, protoTCP, 25, true},
		{"from shadow mode to who enforces", three, two, protoTCP, 80, false},
		{"from who enforces to shadow mode", two, three, protoTCP, 80, false},
		{"dom0's own", dom0, x, protoTCP, 25, true},
	} {
		if got := l.allows(c.from, c.to, c.proto, c.port); got != c.want {
			t.Errorf("%s: %t", c.name, got)
		}
	}
	if p, ok := l.port(x, two, protoTCP, true); p != 7005 || !ok {
		t.Errorf("an open port of two: %d, %t", p, ok)
	}
	if p, ok := l.port(one, x, protoTCP, false); p != 25 || !ok {
		t.Errorf("a closed port: %d, %t", p, ok)
	}
	if _, ok := l.port(three, x, protoTCP, false); ok {
		t.Error("shadow mode stops something")
	}
	if _, ok := l.port(two, x, protoTCP, true); ok {
		t.Error("two may send nothing")
	}
}
