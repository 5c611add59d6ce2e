package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"

	"udrouter/integration/lab"
	"udrouter/policy"
	"udrouter/router"
)

// between is the time from one event to the next, and calm that after every tenth: traffic must also be seen when nothing is disturbed.
const between, calm = 300 * time.Millisecond, 4 * time.Second

// events has things happen, one after the other, until ctx ends; then all is as it was.
func (s *soak) events(ctx context.Context, rng *rand.Rand) {
	list := []struct {
		name     string
		do       func(context.Context, *rand.Rand) error
		disturbs bool
	}{
		{"guests that came or went", s.comeOrGo, false}, {"guests that came or went", s.comeOrGo, false}, {"guests that came or went", s.comeOrGo, false},
		{"reloads", s.reload, false}, {"reloads", s.reload, false},
		{"uplink down and up", s.flap, true}, {"MTU of the uplink changed and back", s.otherMTU, true}, {"another MAC of the provider's router", s.otherMAC, true},
		{"TAP deleted", s.deleteTAP, true},
	}
	happened := map[string]bool{}
	for round := 0; ctx.Err() == nil; round++ {
		e := list[rng.IntN(len(list))]
		if round < len(list) { // each at least once
			e = list[round]
		}
		if e.disturbs {
			s.disturbed.begin(time.Now())
		}
		err := e.do(context.WithoutCancel(ctx), rng)
		if e.disturbs {
			s.disturbed.end(time.Now())
		}
		happened[e.name] = true
		s.counted("event: "+e.name, err)
		if err != nil {
			s.complain("%s: %v", e.name, err)
		}
		pause := between
		if round%10 == 9 {
			pause = calm
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
	for _, e := range list {
		if !happened[e.name] {
			happened[e.name] = true
			s.complain("%s: it never happened, so that nothing is shown of it; the soak was too short", e.name)
		}
	}
}

// comer is a guest of hotplug that is there.
type comer struct {
	ns   *lab.NS
	vif  string
	conn *lab.Conn
}

// comeOrGo has a guest of hotplug come, or one that is there go, with its connection in use before.
func (s *soak) comeOrGo(ctx context.Context, rng *rand.Rand) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	i := rng.IntN(comers)
	if s.comer[i] != nil {
		return s.goes(ctx, i, rng.IntN(2) == 0)
	}
	ns, err := lab.NewNS(fmt.Sprint("come-", i))
	if err != nil {
		return err
	}
	c := &comer{ns: ns, vif: fmt.Sprintf("vif%d.0", 1000+rng.IntN(1<<20))}
	s.comer[i] = c
	mac := policy.MAC{0, 0x16, 0x3e, 2, 0, byte(i)}
	h, err := s.Dom0.Handle()
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = c.vif
	if err := h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: lab.GuestLink, PeerHardwareAddr: mac[:], PeerNamespace: netlink.NsFd(ns.FD())}); err != nil {
		return err
	}
	a := netip.AddrFrom4([4]byte{198, 18, 2, byte(1 + i)})
	network := s.Config.NetworkOf(a)
	if err := errors.Join(ns.SetUp(lab.GuestLink), ns.AddAddr(lab.GuestLink, netip.PrefixFrom(a, network.Prefix.Bits()))); err != nil {
		return err
	}
	if err := ns.AddRoute(lab.GuestLink, lab.Route{Dst: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Via: network.Gateway}); err != nil {
		return err
	}
	if err := s.vif(ctx, "add", "--vif", c.vif, "--bridge", s.Config.Bridge.Name, "--mac", mac.String(), "--ip", a.String(), "--domain", ns.Name()); err != nil {
		return err
	}
	if c.conn, err = ns.Open(ctx, netip.AddrPortFrom(s.Internet.Addr4(), tcpPort)); err != nil {
		return err
	}
	return c.conn.Check(ctx)
}

// goes takes a guest away; told says whether the router is told, or finds out by itself.
func (s *soak) goes(ctx context.Context, i int, told bool) error {
	c := s.comer[i]
	s.comer[i] = nil
	var errs []error
	if c.conn != nil {
		errs = append(errs, c.conn.Check(ctx), c.conn.Close())
	}
	if told {
		errs = append(errs, s.vif(ctx, "remove", "--vif", c.vif))
	}
	return errors.Join(append(errs, s.Dom0.DelLink(c.vif), c.ns.Close())...)
}

func (s *soak) vif(ctx context.Context, args ...string) error {
	args = append([]string{"vif"}, append(args, "--socket", s.proc.Socket, "--state", s.proc.State)...)
	if out, err := s.Dom0.Command(ctx, s.exe, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w\n%s", args, err, out)
	}
	return nil
}

// reload has the router read another file.
func (s *soak) reload(ctx context.Context, rng *rand.Rand) error {
	src, err := s.source(rng.IntN(2) == 0)
	if err != nil {
		return err
	}
	path, err := s.ConfigPath() // which writes the file of the beginning
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, src, 0o644); err != nil {
		return err
	}
	_, err = s.proc.Post(ctx, "/v1/reload")
	return err
}

// flap takes the uplink down and brings it up.
func (s *soak) flap(_ context.Context, rng *rand.Rand) error {
	if err := s.Dom0.SetDown(s.Dom0.Link); err != nil {
		return err
	}
	time.Sleep(time.Duration(rng.IntN(1000)) * time.Millisecond)
	if err := s.Dom0.SetUp(s.Dom0.Link); err != nil {
		return err
	}
	return s.RestoreUplink()
}

// otherMTU has the uplink carry less for a while.
func (s *soak) otherMTU(_ context.Context, rng *rand.Rand) error {
	if err := s.Dom0.SetMTU(s.Dom0.Link, 1280+rng.IntN(220)); err != nil {
		return err
	}
	time.Sleep(time.Duration(rng.IntN(1000)) * time.Millisecond)
	return errors.Join(s.Dom0.SetMTU(s.Dom0.Link, 1500), s.RestoreUplink())
}

// otherMAC gives the provider's router another MAC.
func (s *soak) otherMAC(_ context.Context, rng *rand.Rand) error {
	return s.Gateway.SetLinkMAC(s.Gateway.Link, policy.MAC{2, 0, 0xc0, 1, byte(rng.IntN(256)), byte(rng.IntN(256))})
}

// deleteTAP takes the TAP away, which the router makes again.
func (s *soak) deleteTAP(context.Context, *rand.Rand) error {
	return s.Dom0.DelLink(s.Config.Bridge.TAP)
}

// status is what the router tells of itself.
func (s *soak) status(ctx context.Context) (st router.Status, err error) {
	body, err := s.proc.Get(ctx, "/v1/status")
	if err != nil {
		return st, err
	}
	return st, json.Unmarshal(body, &st)
}

func (s *soak) routerMAC(ctx context.Context) (policy.MAC, error) {
	st, err := s.status(ctx)
	if err != nil {
		return policy.MAC{}, err
	}
	return policy.ParseMAC(st.RouterMAC)
}
