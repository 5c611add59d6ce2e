package policy

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// MAC is a 48-bit IEEE 802 address in transmission order.
type MAC [6]byte

// BroadcastMAC is the address that every station on a link receives.
var BroadcastMAC = MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// ParseMAC reads six hexadecimal octets with ':' or '-' between them.
func ParseMAC(s string) (MAC, error) {
	var m MAC
	if len(s) != 17 {
		return m, fmt.Errorf("%q is not six hexadecimal octets", s)
	}
	sep := s[2]
	if sep != ':' && sep != '-' {
		return m, fmt.Errorf("%q is not six hexadecimal octets", s)
	}
	for i := range m {
		if i > 0 && s[i*3-1] != sep {
			return MAC{}, fmt.Errorf("%q is not six hexadecimal octets", s)
		}
		hi, lo := unhex(s[i*3]), unhex(s[i*3+1])
		if hi > 15 || lo > 15 {
			return MAC{}, fmt.Errorf("%q is not six hexadecimal octets", s)
		}
		m[i] = hi<<4 | lo
	}
	return m, nil
}

func unhex(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10
	}
	return 0xff
}

// String writes six lower-case octets with ':' between them.
func (m MAC) String() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// Bits is the address as a number, its first octet the highest of 48 bits, for those who keep it in an atomic.
func (m MAC) Bits() uint64 {
	return uint64(m[0])<<40 | uint64(m[1])<<32 | uint64(m[2])<<24 | uint64(m[3])<<16 | uint64(m[4])<<8 | uint64(m[5])
}

// MACFromBits is the inverse of Bits.
func MACFromBits(b uint64) MAC {
	return MAC{byte(b >> 40), byte(b >> 32), byte(b >> 24), byte(b >> 16), byte(b >> 8), byte(b)}
}

// IsZero tells whether every bit is 0; no station has that address.
func (m MAC) IsZero() bool { return m == MAC{} }

// IsGroup tells whether the group bit (IEEE 802-2014 8.2.2) is set: multicast or broadcast.
func (m MAC) IsGroup() bool { return m[0]&1 != 0 }

// Action is what a rule does with the packet that it matches.
type Action uint8

// The zero Action is invalid, so that a forgotten one cannot mean accept.
const (
	Accept Action = iota + 1
	Drop
	Reject
)

func (a Action) String() string {
	switch a {
	case Accept:
		return "accept"
	case Drop:
		return "drop"
	case Reject:
		return "reject"
	}
	return "invalid"
}

// Mode tells whether a policy's rules decide or only count what they would have decided.
type Mode uint8

const (
	Enforce Mode = iota
	Shadow
)

// AnyProto matches every protocol. Protocol 0 is a protocol (hop-by-hop options), not a wildcard.
const AnyProto = -1

// PortRange is inclusive; First <= Last and First >= 1.
type PortRange struct{ First, Last uint16 }

// PeerKind says what a Peer names.
type PeerKind uint8

const (
	PeerPrefix PeerKind = iota + 1
	PeerDomu
	PeerHost
	PeerUplink
)

// Peer is one element of a rule's from or to.
type Peer struct {
	Kind   PeerKind
	Prefix netip.Prefix // PeerPrefix, masked
	Domu   string       // PeerDomu
}

// ParsePeer reads a peer that is no prefix: "uplink", "host" or "domu:NAME".
func ParsePeer(s string) (Peer, bool) {
	switch name, isDomu := strings.CutPrefix(s, domuPrefix); {
	case s == "uplink":
		return Peer{Kind: PeerUplink}, true
	case s == "host":
		return Peer{Kind: PeerHost}, true
	case isDomu:
		return Peer{Kind: PeerDomu, Domu: name}, true
	}
	return Peer{}, false
}

const domuPrefix = "domu:"

// String is the peer as the file names it.
func (p Peer) String() string {
	switch p.Kind {
	case PeerUplink:
		return "uplink"
	case PeerHost:
		return "host"
	case PeerDomu:
		return domuPrefix + p.Domu
	}
	return p.Prefix.String()
}

// protoWords are the protocols that the file knows by name.
var protoWords = map[string]int{"tcp": ProtoTCP, "udp": ProtoUDP, "icmp": ProtoICMP, "icmpv6": ProtoICMPv6}

// ParseProto is the number of a protocol that the file knows by name.
func ParseProto(s string) (int, bool) {
	n, ok := protoWords[s]
	return n, ok
}

// ParseProtoOrNumber is ParseProto that takes numbers from 0 to 255 as well.
func ParseProtoOrNumber(s string) (int, bool) {
	if n, ok := ParseProto(s); ok {
		return n, true
	}
	n, err := strconv.ParseUint(s, 10, 8)
	return int(n), err == nil
}

// ProtoName is the file's name for a protocol, or its number.
func ProtoName(n int) string {
	for word, m := range protoWords {
		if m == n {
			return word
		}
	}
	return strconv.Itoa(n)
}

// RulePorts tells whether rules look at the ports of a protocol.
func RulePorts(proto int) bool { return proto == ProtoTCP || proto == ProtoUDP }

// Rule matches a packet when every field that is set does. Empty Ports, From and To match all.
type Rule struct {
	Name   string
	Action Action
	Proto  int // IP protocol number or AnyProto
	Ports  []PortRange
	From   []Peer
	To     []Peer
	Source string // file:line of the rule, for explain and logs
}

// Chain is a list of rules of which the first match decides, and what happens when none does.
type Chain struct {
	Default Action
	Rules   []Rule
	Source  string // file:line of the block, or of what made the default
}

// Limits bound what one guest may use. Zero is no limit, but for Flows.
type Limits struct {
	Packets   uint64 // packets a second, each direction; a GSO frame counts as its segments
	Bandwidth uint64 // bits a second, each direction
	NewFlows  uint64 // flows opened a second, by the guest and from outside to it; another guest's count as its own
	Flows     uint64 // flows at a time, DefaultFlows where left out
}

// DefaultFlows is a guest's share of the flow table where its policy does not say.
const DefaultFlows = 65536

// Policy is what a guest may send (Egress) and be sent (Ingress).
type Policy struct {
	Name    string
	Mode    Mode
	Egress  Chain
	Ingress Chain
	Limits  Limits
	Source  string // file:line of the block, or of what made the default
}

// Question asks what becomes of a packet.
type Question struct {
	From  Peer       // PeerDomu, PeerHost or PeerUplink
	Src   netip.Addr // zero: the sender's own
	To    Peer       // PeerDomu or PeerHost; zero Kind: Dst decides
	Dst   netip.Addr
	Proto int
	Port  uint16  // 0: none
	Forge Forgery // what is wrong with the packet
}

// TestCase is a test block: questions with their expected answers.
type TestCase struct {
	Name string
	TestStep
	Open bool       // the receiver has opened a connection to the sender's Port before, and the packets are answers in it
	Then []TestStep // further packets
}

// Steps are all packets of a test.
func (t *TestCase) Steps() []TestStep { return append([]TestStep{t.TestStep}, t.Then...) }

// TestStep is a question with its expected answer.
type TestStep struct {
	Question
	Expect Action
	Rule   string // "": any
	Source string // file:line
}

// Forgery is what a test's sender does that it may not.
type Forgery uint8

// NoForgery is the zero value: an honest packet.
const (
	NoForgery     Forgery = iota
	ForgeMAC              // the frame's source MAC is another's
	ForgeSource           // the source address is another's
	ForgeAnswer           // an answer that nobody has asked for
	ForgeFlags            // TCP flags that contradict each other
	ForgeFragment         // a first fragment too short for its TCP header
	ForgeRoute            // an IPv4 source route, or an IPv6 routing header of type 0
	ForgeVLAN             // an 802.1Q tag
	ForgeARP              // an ARP reply that claims the destination's address
	ForgeND               // a neighbour advertisement that does
	ForgeRA               // a router advertisement, to everyone on the link
	ForgeRedirect         // an ICMP or ICMPv6 redirect
	ForgeDHCP             // a DHCP server's offer
	forgeries
)

// forgeryWords are the file's words, in the order of the constants.
var forgeryWords = [forgeries]string{"", "mac", "source", "answer", "flags", "fragment", "route", "vlan", "arp", "nd", "ra", "redirect", "dhcp"}

// Forgeries are all that there are.
func Forgeries() (list []Forgery) {
	for f := NoForgery + 1; f < forgeries; f++ {
		list = append(list, f)
	}
	return list
}

// String is the file's word; "" for an honest packet.
func (f Forgery) String() string {
	if f < forgeries {
		return forgeryWords[f]
	}
	return "invalid"
}

// Message tells whether a forgery is a message by itself, so that there is no protocol and no port to be told.
func (f Forgery) Message() bool { return f >= ForgeARP && f < forgeries }

// Has tells whether there is such a forgery in a version of IP.
func (f Forgery) Has(v6 bool) bool {
	switch f {
	case ForgeARP:
		return !v6
	case ForgeND, ForgeRA:
		return v6
	}
	return true
}
