package importer

import (
	"bytes"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"udrouter/config"
)

var update = flag.Bool("update", false, "write the goldens of testdata")

// sourcesIn are the files of a set-up, by their names.
func sourcesIn(t testing.TB) (s Sources) {
	t.Helper()
	for _, f := range []struct {
		pattern string
		list    *[]string
	}{{"interfaces", &s.Interfaces}, {"ndppd.conf", &s.NDPPD}, {"iptables.rules", &s.IPTables}, {"firewall.sh", &s.IPTables}, {"ip6tables.rules", &s.IP6Tables}, {"*.cfg", &s.XL}} {
		names, err := filepath.Glob(f.pattern)
		if err != nil {
			t.Fatal(err)
		}
		*f.list = append(*f.list, names...)
	}
	return s
}

// Each set-up becomes the file and the notes that lie beside it. What check has to say of the file is only that something is to be filled in.
func TestSetups(t *testing.T) {
	for _, c := range []struct {
		dir      string
		complete bool // check accepts the file as it is
	}{{"seed", true}, {"seed-alone", false}, {"hetzner", false}, {"ovh", false}, {"proxmox", true}, {"script", false}, {"xen", false}} {
		t.Run(c.dir, func(t *testing.T) {
			t.Chdir(filepath.Join("testdata", c.dir))
			r, err := Import(sourcesIn(t))
			if err != nil {
				t.Fatal(err)
			}
			golden(t, "router.hcl", r.Config)
			var notes strings.Builder
			for _, n := range r.Notes {
				fmt.Fprintf(&notes, "%v: %s\n", n.Kind, n)
			}
			golden(t, "notes.txt", []byte(notes.String()))
			_, diags := config.Parse("router.hcl", r.Config)
			var todos int
			for _, d := range diags {
				if d.Summary == "Value to be filled in" {
					todos++
				} else {
					t.Errorf("%s: %s", d.Summary, d.Detail)
				}
			}
			if complete := todos == 0; complete != c.complete || todos != r.TODO {
				t.Errorf("check finds %d places to fill in, import %d; complete: want %v", todos, r.TODO, c.complete)
			}
		})
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatalf("%v (go test ./integration/importer -update writes it)", err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s is not what it was:\n%s", name, d)
	}
}

// Every line that says something has an outcome that names it, in every file of every set-up.
func TestEveryLineHasAnOutcome(t *testing.T) {
	dirs, err := filepath.Glob("testdata/*")
	if err != nil || len(dirs) == 0 {
		t.Fatal(dirs, err)
	}
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			t.Chdir(dir)
			s := sourcesIn(t)
			in := read(t, s)
			noted := map[string]bool{}
			for _, n := range in.notes {
				noted[fmt.Sprintf("%s:%d", n.File, n.Line)] = true
				if n.Kind != Carried && n.Why == "" {
					t.Errorf("%s is %v, but nothing says why", n, n.Kind)
				}
			}
			included, err := fs.Glob(os.DirFS("."), "interfaces.d/*")
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range slices.Concat(s.Interfaces, s.IPTables, s.IP6Tables, included) {
				src, err := os.ReadFile(f)
				if err != nil {
					t.Fatal(err)
				}
				for i, l := range bytes.Split(src, []byte("\n")) {
					if l = bytes.TrimSpace(l); len(l) > 0 && l[0] != '#' && !noted[fmt.Sprintf("%s:%d", f, i+1)] {
						t.Errorf("%s:%d is lost: %s", f, i+1, l)
					}
				}
			}
		})
	}
}

// read is an import up to its conclusions.
func read(t *testing.T, s Sources) *setup {
	t.Helper()
	in, p, err := gather(s)
	if err != nil {
		t.Fatal(err)
	}
	p.write()
	return in
}

// What is malformed is named with its line, all at once, and nothing is written.
func TestMalformed(t *testing.T) {
	for _, c := range []struct{ kind, src, want string }{
		{"interfaces", "iface eth0 inet\n", "f:1: iface eth0 needs a family and a method, such as inet static"},
		{"interfaces", "iface\n", "f:1: iface names no interface"},
		{"interfaces", "auto\n", "f:1: auto names no interface"},
		{"interfaces", "# nothing\n\naddress 192.0.2.1\n", `f:3: "address" stands in no iface stanza: is a line missing before it?`},
		{"interfaces", "iface eth0 inet static\n address 192.0.2.256\n", `f:2: address "192.0.2.256" is no address of this family`},
		{"interfaces", "iface eth0 inet static\n address 192.0.2.1\n netmask 255.0.255.0\n", `f:3: netmask "255.0.255.0" is neither a mask nor a length`},
		{"interfaces", "iface eth0 inet static\n address 192.0.2.1\n netmask 33\n", `f:3: netmask "33" is neither a mask nor a length`},
		{"interfaces", "iface eth0 inet static\n netmask 24\n", "f:2: netmask 24 has no address before it that it fits"},
		{"interfaces", "iface eth0 inet static\n gateway none\n", `f:2: gateway "none" is no address`},
		{"interfaces", "iface br0 inet static\n mtu big\n", `f:2: mtu "big" is no number of bytes from 68 to 65535`},
		{"interfaces", "iface br0 inet static\n up echo 'x\n", "f:2: a quotation mark (') is not closed"},
		{"interfaces", "source a b\n", "f:1: source takes one path"},
		{"interfaces", "source f\n", "more than 200 files include each other"},
		{"interfaces", "iface a inet\niface b inet\n", "f:2: iface b needs"},
		{"ndppd", "proxy eth0 {\n", "f:2: the file ends in a block that is not closed"},
		{"ndppd", "}\n", "f:1: a } without its {"},
		{"ndppd", "{\n", "f:1: a block without a name"},
		{"ndppd", "proxy eth0 {\n rule 192.0.2.0/24 { auto }\n}\n", `f:2: rule "192.0.2.0/24" is no IPv6 prefix`},
		{"ndppd", "proxy eth0 {\n ttl soon\n}\n", `f:2: ttl "soon" is no number of milliseconds`},
		{"ndppd", "proxy eth0 {\n router maybe\n}\n", `f:2: router is yes or no, not "maybe"`},
		{"ndppd", "rule 2001:db8::/64 {\n}\n", `f:1: "rule 2001:db8::/64" begins no block here`},
		{"ndppd", "/* for ever\n", "f:1: a comment (/*) is not closed"},
		{"iptables", "*filter\n-A INPUT -j ACCEPT\n", "f:3: the table *filter is not ended by COMMIT"},
		{"iptables", "*filter\n*nat\nCOMMIT\n", "f:2: *nat begins before COMMIT has ended *filter"},
		{"iptables", "*filter\n:INPUT\nCOMMIT\n", "f:2: a chain is declared as :NAME POLICY"},
		{"iptables", "*filter\n:INPUT REJECT\nCOMMIT\n", "f:2: the policy REJECT is neither ACCEPT nor DROP"},
		{"iptables", "*filter\n:web DROP\nCOMMIT\n", "f:2: the chain web is none of INPUT, FORWARD, OUTPUT"},
		{"iptables", "*filter\n-A INPUT -s 192.0.2.300 -j DROP\nCOMMIT\n", `f:2: "192.0.2.300" is no address or prefix`},
		{"iptables", "*filter\n-A INPUT -s 2001:db8::1 -j DROP\nCOMMIT\n", "f:2: 2001:db8::1/128 is of the other family than the rule"},
		{"iptables", "*filter\n-A INPUT -p tcp --dport 70000 -j DROP\nCOMMIT\n", `f:2: "70000" is no port or range of ports`},
		{"iptables", "*filter\n-A INPUT -p tcp --dport 90:80 -j DROP\nCOMMIT\n", `f:2: "90:80" is no port or range of ports`},
		{"iptables", "*filter\n-A INPUT -s 192.0.2.1" + strings.Repeat(",192.0.2.1", 256) + " -j DROP\nCOMMIT\n", "f:2: more than 256 addresses in one rule"},
		{"iptables", "*filter\n-A INPUT -p tcp --dports 1" + strings.Repeat(",1", 15) + " -j DROP\nCOMMIT\n", "f:2: more than 15 ports in one rule"},
		{"iptables", "*filter\n-A INPUT -j DROP; -A INPUT -j ACCEPT\nCOMMIT\n", "f:2: more follows the rule"},
		{"iptables", "*filter\n-A INPUT -m state --state OLD -j DROP\nCOMMIT\n", `f:2: "OLD" is no state of a connection`},
		{"iptables", "*filter\n-A INPUT -j\nCOMMIT\n", "f:2: -j takes a word"},
		{"iptables", "*filter\n-A INPUT !\nCOMMIT\n", "f:2: a ! has nothing to negate"},
		{"iptables", "*filter\n-A INPUT tcp -j DROP\nCOMMIT\n", `f:2: "tcp" stands where an option is wanted`},
		{"iptables", "*filter\n-A\nCOMMIT\n", "f:2: -A names no chain"},
		{"iptables", "*filter\n-I INPUT 5 -j DROP\nCOMMIT\n", "f:2: INPUT has no place 5 to insert a rule at"},
		{"iptables", "*filter\n:a - [0:0]\n-A INPUT -j a\n-A a -j a\nCOMMIT\n", "f:4: jumps from chain to chain make more than"},
		{"iptables", "iptables\n", "f:1: a command of iptables is missing"},
		{"iptables", "iptables -P INPUT\n", "f:1: -P takes a chain and a policy"},
		{"xl", "vif = ['mac=00:16:3e:00:00:01'\n", "f:1: the list of vif is not closed by a ]"},
		{"xl", "\nvif = ['mac=00:16]\n", "f:2: a quotation mark (') is not closed"},
		{"xl", "vif = ['mac=00:16:3e:00:00']\n", `f:1: mac "00:16:3e:00:00" is no station's MAC address`},
		{"xl", "vif = ['mac=01:16:3e:00:00:00']\n", `f:1: mac "01:16:3e:00:00:00" is no station's MAC address`},
		{"xl", "vif = [\n 'ip=here',\n]\n", `f:2: ip "here" is no address`},
	} {
		t.Chdir(t.TempDir())
		if err := os.WriteFile("f", []byte(c.src), 0o644); err != nil {
			t.Fatal(err)
		}
		r, err := Import(map[string]Sources{"interfaces": {Interfaces: []string{"f"}}, "ndppd": {NDPPD: []string{"f"}},
			"iptables": {IPTables: []string{"f"}}, "xl": {XL: []string{"f"}}}[c.kind])
		if r != nil || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %q: got error %v, want %s", c.kind, c.src, err, c.want)
		}
	}
	for _, s := range []Sources{{}, {NDPPD: []string{"none"}}} {
		if r, err := Import(s); r != nil || err == nil {
			t.Errorf("%v: %v, %v", s, r, err)
		}
	}
}
