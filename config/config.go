// Package config reads router.hcl into validated values. No HCL type appears in its exported
// signatures but for diagnostics; every mistake of a file is reported at once. Its files, as a router.hcl
// passes them:
//
//	load.go                    a file that may be read, is text, and parses in bounded time
//	file.go grammar.go         the raw blocks; unknown keys and blocks
//	literal.go address.go      one value: its kind, form and range
//	decode.go template.go rules.go testcase.go services.go
//	                           the blocks, one after the other
//	validate.go                what concerns several values
//	diagnostic.go write.go     complaints, and how they are shown
//	config.go                  the values that result
//	attach.go                  guests that hotplug has named
//	reference.hcl              every key, with its default
//	outline.go                 the grammar, with the reference's explanations, for documents
package config

import (
	_ "embed"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"udrouter/policy"
)

// Reference is a complete router.hcl that documents every key with its default.
//
//go:embed reference.hcl
var Reference []byte

// Range is a place in the file, for messages: "router.hcl:12".
type Range struct {
	File         string
	Line, Column int // from 1
}

// Config is a validated router.hcl.
type Config struct {
	File     string
	Uplink   Uplink
	Bridge   Bridge
	Networks []Network
	Domus    []Domu

	// Templates are in the order in which they are asked for a guest that hotplug has named.
	Templates []Template

	Policies []policy.Policy
	Host     *Host // nil: no host block
	Tests    []policy.TestCase
	Control  Control
	Metrics  *Metrics // nil: none
	Log      Log

	// Attached are what hotplug has named and what became of it, and Base the file without them, where Attach has made this Config; else nil.
	Attached []Attached
	Base     *Config
}

// Uplink is the interface toward the provider. Zero addresses: the kernel's own.
type Uplink struct {
	Name     string
	Gateway4 netip.Addr
	Gateway6 netip.Addr
	Address4 netip.Addr
	Range    Range
}

// Bridge joins the guests' vifs.
type Bridge struct {
	Name    string
	TAP     string     // default "udr0"
	MAC     policy.MAC // zero: derived
	MTU     int        // bytes; 0: the uplink's
	Isolate bool       // default true
	Range   Range
}

// Upstream tells how the provider brings a network here.
type Upstream uint8

const (
	Routed  Upstream = iota + 1 // to the host's own address
	Proxied                     // on-link: ARP and NDP are answered for its addresses
)

// Answer tells for which addresses of a proxied network the upstream is answered.
type Answer uint8

const (
	AnswerBound   Answer = iota // those that a domu is bound to
	AnswerLearned               // those of them whose guest has answered a probe
)

// Source is the IPv6 source address of a proxy advertisement.
type Source uint8

const (
	SourceLinkLocal Source = iota // the router's own on the uplink
	SourceTarget                  // the address that is answered for
)

// Network is a prefix of guests' addresses.
type Network struct {
	Name     string
	Prefix   netip.Prefix
	Gateway  netip.Addr // the router's address toward guests; may be link-local in an IPv6 network
	Upstream Upstream
	Proxy    Proxy
	RA       *RA   // nil: no router advertisements
	DHCP     *DHCP // nil: no DHCP
	Range    Range
}

// RA are router advertisements to the guests of an IPv6 network (RFC 4861 6.2).
type RA struct {
	Lifetime time.Duration // of the default route, default 30m
	DNS      []netip.Addr  // recursive name servers (RFC 8106)
	OnLink   bool          // guests may take the whole prefix for on-link (RFC 4861 4.6.2), default false
}

// DHCP gives guests the addresses that they are bound to.
type DHCP struct {
	Lease time.Duration // default 1h
	DNS   []netip.Addr
}

// Proxy is how a proxied network is answered for.
type Proxy struct {
	Answer   Answer
	Router   bool          // R flag, default true
	Override bool          // O flag of solicited answers, default false (RFC 4861 7.2.8)
	TTL      time.Duration // how long a learned guest counts as present, default 30s
	Timeout  time.Duration // how long a probe waits for the guest, default 500ms
	Announce bool          // tell the upstream when a guest appears, default true
	Source   Source
}

// Domu is a guest: what binds it, and its policy.
type Domu struct {
	Name   string
	Vif    string // "": named later, by the hotplug script
	Index  int    // of the vif, where hotplug has named it: another interface of the name is not the guest's; else 0
	MAC    policy.MAC
	IPv4   []netip.Prefix
	IPv6   []netip.Prefix
	Policy string // name of a policy; "": the default policy

	// Template is the name of the template that bound it (see Attach); "": the file names the guest itself.
	Template string
	Range    Range
}

// Template is a domu block that stands for many guests: hotplug tells who they are.
type Template struct {
	Name      string
	Match     string   // MatchAny, or a pattern of domains' names: * is any text, ? one character
	Policy    string   // as of a Domu
	Networks  []string // those whose addresses its guests may have, by name; nil: all
	Addresses int      // how many addresses and prefixes each of them may have
	Prefix6   int      // the shortest IPv6 prefix among them, in bits; of IPv4 they may have single addresses
	Range     Range
}

// MatchAny is the Match of a template for every domain that no other one matches.
const MatchAny = "any"

// Host is what dom0 and its guests may do to each other.
type Host struct {
	Interface string // default "udrhost"
	Ingress   policy.Chain
	Uplink    *policy.Chain // nil: dom0's firewall toward the internet is not ours
	Range     Range
}

// Control is the control socket.
type Control struct {
	Socket string // default /run/udrouter/control.sock
	Group  string // default: the process's
}

// Metrics is where Prometheus may scrape: "127.0.0.1:9469" or "unix:/path".
type Metrics struct{ Listen string }

// Address is where to listen, for package net: a network, and an address of it.
func (m *Metrics) Address() (network, address string) {
	if path, ok := strings.CutPrefix(m.Listen, "unix:"); ok {
		return "unix", path
	}
	return "tcp", m.Listen
}

// Log is how the router logs.
type Log struct {
	Level  string // debug, info, warn, error; default info
	Format string // text, json; default text
}

// PolicyFor is the policy of a domu of this Config. Without one of its own: egress accept, ingress drop.
func (c *Config) PolicyFor(d *Domu) *policy.Policy {
	for i := range c.Policies {
		if d.Policy != "" && c.Policies[i].Name == d.Policy {
			return &c.Policies[i]
		}
	}
	source := d.Range.String()
	return &policy.Policy{
		Name:    "default",
		Egress:  policy.Chain{Default: policy.Accept, Source: source},
		Ingress: policy.Chain{Default: policy.Drop, Source: source},
		Limits:  policy.Limits{Flows: policy.DefaultFlows},
		Source:  source,
	}
}

// NetworkOf is the network whose prefix holds the address, or nil; link-local addresses are in none.
func (c *Config) NetworkOf(a netip.Addr) *Network {
	for i := range c.Networks {
		if c.Networks[i].Prefix.Contains(a) {
			return &c.Networks[i]
		}
	}
	return nil
}

// String is the file and line, for messages.
func (r Range) String() string { return fmt.Sprintf("%s:%d", r.File, r.Line) }
