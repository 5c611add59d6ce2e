package integration

import (
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"

	"udrouter/integration/live"
	"udrouter/integration/wire"
)

// asLeak is the environment of a process of this test that has a machine leak, and becomes the program that it names: of each frame that leaves by the
// second vif the first gets a copy, as of a bridge that floods.
const asLeak = "UDROUTER_TEST_LEAK"

func becomeLeak(program string) error {
	from, err := net.InterfaceByName("vif2.0")
	if err != nil {
		return err
	}
	to, err := net.InterfaceByName("vif1.0")
	if err != nil {
		return err
	}
	c, err := nftables.New()
	if err != nil {
		return err
	}
	table := c.AddTable(&nftables.Table{Name: "leak", Family: nftables.TableFamilyNetdev})
	chain := c.AddChain(&nftables.Chain{Name: "leak", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookEgress,
		Priority: nftables.ChainPriorityFilter, Device: from.Name})
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Immediate{Register: 1, Data: binaryutil.NativeEndian.PutUint32(uint32(to.Index))},
		&expr.Dup{RegDev: 1, IsRegDevSet: true},
	}})
	if err := c.Flush(); err != nil {
		return fmt.Errorf("having %s leak: %w", from.Name, err)
	}
	if err := os.Unsetenv(asLeak); err != nil {
		return err
	}
	return syscall.Exec(program, append([]string{program}, os.Args[1:]...), os.Environ())
}

// What a machine lets others see of a packet, or of the answer to one, is found out, though the packet itself arrives.
func TestLiveFindsLeaks(t *testing.T) {
	self, err := os.Executable()
	must(t, err)
	t.Setenv(asLeak, wire.Exe)
	src := withoutTests()
	rows := []struct {
		liveRow
		want string
	}{
		{liveRow{from: "uplink", src: "9.9.9.9", to: "domu:two", proto: "tcp", port: 22, expect: "accept"}, "it was seen where it is not to be; seen at domu:two, domu:one"},
		{liveRow{from: "domu:two", to: "9.9.9.9", proto: "icmp", expect: "accept"}, "its answer was seen where it is not to be: by domu:one"},
		{liveRow{from: "domu:two", to: "2620:fe::9", proto: "tcp", port: 443, expect: "accept"}, "its answer was seen where it is not to be: by domu:one"},
		{liveRow{from: "domu:two", to: "192.0.2.1", proto: "icmp", expect: "accept"}, "its answer was seen where it is not to be: by domu:one"},
		{liveRow{from: "host", to: "domu:one", proto: "tcp", port: 22, expect: "accept"}, ""},
	}
	for i, r := range rows {
		src += r.block(i)
	}
	results, err := live.Run(testContext(t), parsed(t, src), live.Options{Source: []byte(src), Exe: self})
	must(t, err)
	for i, r := range results {
		if want := rows[i].want; !strings.Contains(r.Failed, want) || (want == "") != (r.Failed == "") {
			t.Errorf("%s: got %q, want %q", r.Name, r.Failed, want)
		}
	}
}
