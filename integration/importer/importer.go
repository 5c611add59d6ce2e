// Package importer writes a router.hcl from the files of the set-up that udrouter replaces: dummy0 and a bridge in interfaces(5), proxy NDP
// entries or ndppd, sysctls, iptables rules, and Xen's own files of guests. It reads files and touches no machine.
//
// Its files, in the order in which a set-up passes them:
//
//	ledger.go                   every line that was read, and what became of it: none is lost in silence
//	words.go shell.go           lines and words of files and commands; what a script says of them
//	interfaces.go command.go ndppd.go xl.go
//	                            what the files say, without conclusions
//	iptables.go match.go flatten.go
//	                            rules of the filter table, with user-defined chains put in place of the jumps to them
//	network.go guest.go         conclusions: the uplink, the bridge, networks, guests
//	translate.go chains.go family.go
//	                            rules as udrouter has them, for each guest and for dom0
//	write.go                    the text
//
// # What is kept of a rule
//
// Order and meaning of what opens a connection: udrouter's rules are asked about nothing else, and replies pass by state. Whatever cannot be
// said exactly becomes narrower, never wider: an ACCEPT is left out; a DROP is written as if its inexpressible conditions held for every packet, with
// the action "TODO", which `udrouter check` refuses until someone has decided.
package importer

import (
	"errors"
	"fmt"
	"net/netip"
)

// Sources are the files to read; each list may be empty, but not all of them.
type Sources struct {
	Interfaces []string // interfaces(5)
	NDPPD      []string // ndppd.conf
	IPTables   []string // output of iptables-save, or a script of iptables commands
	IP6Tables  []string // the same of ip6tables; the lines of a script go by the command that they call
	XL         []string // xl.cfg(5), one a guest
}

// Result is a configuration and what it leaves open.
type Result struct {
	Config []byte // router.hcl
	Notes  []Note // what became of each line that is not simply carried over, in the order of reading
	TODO   int    // places that `udrouter check` refuses until they are filled in
}

// todo begins every value that has to be filled in.
const todo = "TODO"

// setup is what all files say together.
type setup struct {
	ledger
	interfaces []*iface
	routes     []route
	proxies    []proxied
	ndppd      []*ndpProxy
	vifs       []*xlVif
	tables     [2]*table // filter rules of IPv4 and IPv6; nil: no file has any
	proxyARP   bool      // for all interfaces or the uplink's
	restored   [2]bool   // a file of rules was given
	condition  string    // what the command that is being read depends on; "": nothing
}

// Import reads the files. Its error joins all that is malformed, each as "file:line: what is wrong"; then there is no result.
func Import(s Sources) (*Result, error) {
	in, p, err := gather(s)
	if err != nil {
		return nil, err
	}
	text := p.write()
	return &Result{Config: text, Notes: in.listed(), TODO: p.todos}, nil
}

// gather reads the files and concludes.
func gather(s Sources) (*setup, *plan, error) {
	if len(s.Interfaces)+len(s.NDPPD)+len(s.IPTables)+len(s.IP6Tables)+len(s.XL) == 0 {
		return nil, nil, errors.New("nothing to import: name at least one file, such as --interfaces /etc/network/interfaces")
	}
	in := &setup{restored: [2]bool{len(s.IPTables) > 0, len(s.IP6Tables) > 0}}
	for _, part := range []struct {
		files []string
		read  func(file string, src []byte)
	}{
		{s.IPTables, func(f string, src []byte) { in.readRules(f, src, false) }},
		{s.IP6Tables, func(f string, src []byte) { in.readRules(f, src, true) }},
		{s.Interfaces, in.readInterfaces},
		{s.NDPPD, in.readNDPPD},
		{s.XL, in.readXL},
	} {
		for _, f := range part.files {
			src, err := readFile(f)
			if err != nil {
				in.errs = append(in.errs, err)
				continue
			}
			part.read(f, src)
		}
	}
	if err := errors.Join(in.errs...); err != nil {
		return nil, nil, err
	}
	p := in.conclude()
	return in, p, errors.Join(in.errs...)
}

// route is a line that adds a route.
type route struct {
	dst  netip.Prefix // 0 bits: the default route
	via  netip.Addr
	dev  string
	note *Note
}

// proxied is an `ip neigh add proxy`.
type proxied struct {
	addr netip.Addr
	dev  string
	note *Note
}

// place is for messages.
func (n *Note) place() string { return fmt.Sprintf("%s:%d", n.File, n.Line) }
