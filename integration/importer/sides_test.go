package importer_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"udrouter/config"
	"udrouter/integration/importer"
	"udrouter/policy"
	"udrouter/router"
)

// What a rule says of another network of dom0's, or of dummy0 beside the guests' bridge, it says of no guest: the kernel sees their packets come from the
// bridge. What it says of all but such a network holds for guests.
func TestOtherNetworks(t *testing.T) {
	const others = `
auto virbr9
iface virbr9 inet static
    address 10.9.0.1/24
    bridge_ports none
auto veth-mgmt
iface veth-mgmt inet static
    address 10.8.0.1/24
auto dummy0
iface dummy0 inet static
    address 192.0.2.1/24
`
	host, x := netip.MustParseAddr("192.0.1.3"), netip.MustParseAddr("198.51.100.7")
	for _, name := range []string{"virbr9", "veth-mgmt", "dummy0"} {
		for _, c := range []struct {
			rules string
			dst   netip.Addr
			port  uint16
			want  string
		}{
			{":INPUT DROP\n:FORWARD ACCEPT\n-A INPUT -i IF -j ACCEPT", host, 22, "drop"},
			{":INPUT ACCEPT\n:FORWARD DROP\n-A FORWARD -i IF -j ACCEPT\n-A FORWARD -i xenbr0 -o eth0 -p tcp --dport 443 -j ACCEPT", x, 25, "drop"},
			{":INPUT ACCEPT\n:FORWARD DROP\n-A FORWARD -i IF -j ACCEPT\n-A FORWARD -i xenbr0 -o eth0 -p tcp --dport 443 -j ACCEPT", x, 443, "accept"},
			{":INPUT ACCEPT\n:FORWARD ACCEPT\n-A FORWARD ! -i IF -p tcp --dport 25 -j DROP", x, 25, "drop"},
		} {
			rules := "*filter\n" + strings.ReplaceAll(c.rules, "IF", name) + "\nCOMMIT\n"
			dir := t.TempDir()
			write := func(name, text string) string {
				name = filepath.Join(dir, name)
				if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
				return name
			}
			res, err := importer.Import(importer.Sources{Interfaces: []string{write("interfaces", oracleInterfaces+others)}, IPTables: []string{write("rules", rules)},
				XL: []string{write("one.cfg", fmt.Sprintf(oracleGuest, "one", 1, 1, 0, 0))}})
			if err != nil {
				t.Fatal(err)
			}
			cfg, diags := config.Parse("router.hcl", res.Config)
			if diags.HasErrors() {
				t.Fatalf("%v\n%s", diags, res.Config)
			}
			e, err := router.NewExplainer(cfg)
			if err != nil {
				t.Fatal(err)
			}
			answers, err := e.Explain(policy.Question{From: policy.Peer{Kind: policy.PeerDomu, Domu: "one"}, Dst: c.dst, Proto: policy.ProtoTCP, Port: c.port})
			if err != nil || len(answers) != 1 || answers[0].Verdict != c.want {
				t.Errorf("port %d of %v is %+v, %v, want %s, by\n%s\n%s", c.port, c.dst, answers, err, c.want, rules, res.Config)
			}
		}
	}
}
