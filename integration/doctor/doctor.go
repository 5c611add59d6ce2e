// Package doctor finds what on this machine is in a router's way, before it runs and while it does, and says what to do about each. It reads and
// changes nothing.
//
//	doctor.go                   the table of checks, and a finding
//	machine_linux.go            what is read, once, of the calling thread's network namespace
//	program.go kernel.go interface.go guest.go filter.go
//	                            the checks, by what they look at
package doctor

import (
	"fmt"

	"udrouter/config"
)

// Severity tells whether a finding is in the way.
type Severity string

const (
	Problem Severity = "problem" // guests or dom0 lose packets or protection
	Warning Severity = "warning" // works, or may be meant
)

// Finding is a conflict with its remedy. Its JSON is `udrouter doctor --json`; fields are only ever added.
type Finding struct {
	Check    string   `json:"check"` // name in the table
	Severity Severity `json:"severity"`
	What     string   `json:"what"`
	Remedy   string   `json:"remedy"` // a command, or what to change
}

// String is the finding for a person.
func (f Finding) String() string {
	return fmt.Sprintf("%s %s: %s\n  remedy: %s", f.Severity, f.Check, f.What, f.Remedy)
}

// Options say where to look. All may be left out.
type Options struct {
	Config     *config.Config // nil: only what needs no configuration is looked at
	ConfigFile string         // its file, for its owner and mode; "": none
	Invalid    bool           // the file could not be read as a configuration
	StateDir   string         // of `udrouter run`; "": /run/udrouter
	Router     Router
}

// Router is what a running router was asked for.
type Router struct {
	Err        error // why it could not be asked; without meaning when none runs
	ForeignMAC uint64
	Warnings   []string
}

// check looks at one kind of conflict.
type check struct {
	name string
	what string // the conflict, for the README
	find func(m *machine) []Finding
}

var checks = []check{
	{"file", "the configuration is not valid, not root's, or others may write it", (*machine).checkFile},
	{"router", "another udrouter runs here, or the one that runs does not answer", (*machine).checkRouter},
	{"leftovers", "a killed run has left its settings, or nobody knows whose tables there are", (*machine).checkLeftovers},
	{"foreign-mac", "a running router has kept frames with a foreign MAC off the uplink", (*machine).checkForeign},
	{"kernel", "Linux is older than 5.18; tun or nf_tables is missing", (*machine).checkKernel},
	{"forwarding", "dom0's kernel forwards as well", (*machine).checkForwarding},
	{"proxy", "dom0's kernel answers ARP or NDP for others, in general or for single addresses", (*machine).checkProxy},
	{"daemon", "ndppd, npd6, radvd or the like runs", (*machine).checkDaemons},
	{"br-netfilter", "bridged frames are shown to dom0's iptables", (*machine).checkBridgeNetfilter},
	{"conntrack", "the table of connections is nearly full", (*machine).checkConntrack},
	{"uplink", "it is missing, down, a port of a bridge or bond, or in a VRF", (*machine).checkUplink},
	{"offload", "LRO on the uplink: joined packets cannot be forwarded", (*machine).checkOffload},
	{"routes", "no or several default routes, and routes to guests past the router", (*machine).checkRoutes},
	{"addresses", "dom0 holds guests' addresses, or addresses on the bridge, the TAP, a vif, or in the guests' networks (dummy0)", (*machine).checkAddresses},
	{"bridge", "it is something else; down, or with multicast snooping or IPv6, beside a running router", (*machine).checkBridge},
	{"mtu", "bridge, TAP and vifs differ in their MTU, or it is too small for IPv6", (*machine).checkMTU},
	{"vifs", "a guest's vif is missing, down or not in the bridge; a port of the bridge is nobody's, where the file leaves none to hotplug", (*machine).checkVifs},
	{"guest-mac", "the bridge has learned another MAC of a guest than its domu block says, which it does until the port is locked", (*machine).checkGuestMACs},
	{"filters", "others' nftables or iptables rules drop in the bridge or before it", (*machine).checkFilters},
}

// Run looks at everything. The error is that of what could not be looked at; the findings are of all else.
func Run(o Options) ([]Finding, error) {
	if o.StateDir == "" {
		o.StateDir = "/run/udrouter"
	}
	m, err := readMachine(o)
	list := []Finding{}
	for _, c := range checks {
		for _, f := range c.find(m) {
			f.Check = c.name
			list = append(list, f)
		}
	}
	return list, err
}

// Checks is the table, for documentation: names and what each finds.
func Checks() (rows [][2]string) {
	for _, c := range checks {
		rows = append(rows, [2]string{c.name, c.what})
	}
	return rows
}

func problem(remedy, format string, args ...any) Finding {
	return Finding{Severity: Problem, What: fmt.Sprintf(format, args...), Remedy: remedy}
}

func warning(remedy, format string, args ...any) Finding {
	return Finding{Severity: Warning, What: fmt.Sprintf(format, args...), Remedy: remedy}
}
