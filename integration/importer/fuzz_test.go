package importer

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// FuzzImport reads anything: what comes out is a file that parses, or errors; and whatever was read has an outcome with a reason.
func FuzzImport(f *testing.F) {
	for _, dir := range []string{"seed", "hetzner", "ovh", "proxmox", "script"} {
		file := func(name string) []byte {
			b, _ := os.ReadFile(filepath.Join("testdata", dir, name)) // not every set-up has all
			return b
		}
		rules := file("iptables.rules")
		if rules == nil {
			rules = file("firewall.sh")
		}
		f.Add(file("interfaces"), file("ndppd.conf"), rules, file("ip6tables.rules"), file("one.cfg"))
	}
	f.Fuzz(func(t *testing.T, interfaces, ndppd, rules4, rules6, xl []byte) {
		if len(interfaces)+len(ndppd)+len(rules4)+len(rules6)+len(xl) > 1<<14 {
			return // as long as a big one that a person has written
		}
		in := &setup{}
		in.readRules("rules4", rules4, false)
		in.readRules("rules6", rules6, true)
		in.readNDPPD("ndppd", ndppd)
		in.readXL("xl", xl)
		r := &ifReader{setup: in, files: maxIncludes - 1} // one file: none is included
		r.read("interfaces", interfaces)
		if len(in.errs) > 0 {
			return
		}
		p := in.conclude()
		if len(in.errs) > 0 {
			return
		}
		text := p.write()
		if _, diags := hclsyntax.ParseConfig(text, "router.hcl", hcl.InitialPos); diags.HasErrors() {
			t.Fatalf("%v\n%s", diags, text)
		}
		for _, n := range in.notes {
			if n.Kind != Carried && n.Why == "" {
				t.Errorf("%s is %v, but nothing says why", n, n.Kind)
			}
		}
	})
}
