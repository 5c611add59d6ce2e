package policy

import "fmt"

// Reason tells why a packet did not pass. It is a closed type: logs, status, metrics and explain use the
// same word for it, and a drop without one does not exist. None is the zero value: nothing was wrong.
type Reason uint8

const (
	None Reason = iota

	// Found by the parser: what the bytes say of themselves.
	Malformed
	Checksum
	VLAN
	EtherType
	HeaderChain
	RoutingHeader
	IPv6Option
	SourceRoute
	TinyFragment
	OversizeFrag
	NDHopLimit
	NDMalformed
	NDFragment
	ARPMalformed

	// Found by guards and bindings.
	MACInvalid
	MACBinding
	OtherHost
	L2Multicast
	MartianSrc
	MartianDst
	IPBinding
	IP6Binding
	SpoofUplink
	ARPSpoof
	NDSpoof
	RAGuard
	Redirect
	ICMPType
	DHCPGuard
	NDLimit
	HostSource

	// Found by state, rules and limits.
	TCPFlags
	TCPState
	TCPWindow
	NoFlow
	FlowSide
	FlowLimit
	FragmentOverlap
	FragmentOrphan
	FragmentLimit
	Unrelated
	EgressPolicy
	IngressPolicy
	LimitPackets
	LimitBandwidth
	LimitNewFlows

	// Found by the forwarder.
	TTLExceeded
	TooBig
	LinkLocal
	Multicast
	Broadcast
	UnboundDst
	KernelHeld
	Loop
	NoRoute
	NoNeighbour
	HostPolicy
	RouterLocal
	RouterLimit
	QueueFull
	LinkDown
	ForeignMAC
	Internal

	reasonCount
)

// Reasons is the number of reasons, None included; Reason values are below it.
const Reasons = int(reasonCount)

// reasons are the words, and what they mean.
var reasons = [Reasons]struct{ word, text string }{
	None: {"none", "Nothing was wrong"},

	Malformed:     {"malformed", "A length, version or option that contradicts the frame"},
	Checksum:      {"checksum", "IPv4 header checksum, or that of an ND message or of an echo request to the router"},
	VLAN:          {"vlan", "802.1Q or 802.1ad tag, in the frame or stripped from it"},
	EtherType:     {"ethertype", "Neither ARP, IPv4 nor IPv6; 802.3 with LLC"},
	HeaderChain:   {"header-chain", "More than 10 IPv6 extension headers or 512 bytes of them, or cut off by fragmentation"},
	RoutingHeader: {"routing-header", "IPv6 routing header type 0 (RFC 5095), or any that the router itself is to follow"},
	IPv6Option:    {"ipv6-option", "A hop-by-hop option, or one to the router itself, that wants its packet dropped by who does not know it (RFC 8200 4.2)"},
	SourceRoute:   {"source-route", "IPv4 loose or strict source route"},
	TinyFragment:  {"tiny-fragment", "A first fragment without its whole transport header (RFC 1858, RFC 7112), or one that would rewrite it (RFC 3128)"},
	OversizeFrag:  {"oversize-fragment", "A fragment that ends beyond 65535 bytes"},
	NDHopLimit:    {"nd-hoplimit", "ND that has crossed a router (RFC 4861 7.1)"},
	NDMalformed:   {"nd-malformed", "ND with a wrong code, length or option (RFC 4861 7.1)"},
	NDFragment:    {"nd-fragment", "ND in a fragment (RFC 6980)"},
	ARPMalformed:  {"arp-malformed", "ARP that is not Ethernet and IPv4"},

	MACInvalid:  {"mac-invalid", "Zero or group source MAC"},
	MACBinding:  {"mac-binding", "A source MAC that no guest is bound to; at a guest's bridge port, any but the guest's"},
	OtherHost:   {"other-host", "Unicast to a MAC that is not the router's"},
	L2Multicast: {"l2-multicast", "Unicast IP in a broadcast or multicast frame"},
	MartianSrc:  {"martian-src", "A source that no host may have"},
	MartianDst:  {"martian-dst", "A destination that is never forwarded"},
	IPBinding:   {"ip-binding", "An IPv4 source that is not bound to the guest"},
	IP6Binding:  {"ip6-binding", "An IPv6 source that is not bound to the guest"},
	SpoofUplink: {"spoof-ingress", "A source of ours that comes from the uplink"},
	ARPSpoof:    {"arp-spoof", "ARP for an address or MAC that is not the sender's"},
	NDSpoof:     {"nd-spoof", "ND for an address or MAC that is not the sender's"},
	RAGuard:     {"ra-guard", "Router advertisement from a guest"},
	Redirect:    {"redirect", "ICMP or ICMPv6 redirect"},
	ICMPType:    {"icmp-type", "An ICMP or ICMPv6 type that no router passes (RFC 4890, RFC 6918)"},
	DHCPGuard:   {"dhcp-guard", "DHCP of a server or a relay, or of a client whom no `dhcp` block serves to everyone"},
	NDLimit:     {"nd-limit", "More ARP or ND than the sender's share"},
	HostSource:  {"host-src", "From dom0 with an address that dom0 does not hold"},

	TCPFlags:        {"tcp-flags", "Flags that no TCP sends together: none, SYN and FIN, SYN and RST, FIN without ACK"},
	TCPState:        {"tcp-state", "A TCP segment that its connection's state does not allow"},
	TCPWindow:       {"tcp-window", "A TCP segment or reset outside of its connection's window"},
	NoFlow:          {"no-flow", "Belongs to no flow and may not open one"},
	FlowSide:        {"flow-side", "Of a flow, but from or to a side where the flow has no end"},
	FlowLimit:       {"flow-limit", "No more flows at a time"},
	FragmentOverlap: {"fragment-overlap", "A fragment of a datagram that has overlapping ones (RFC 5722)"},
	FragmentOrphan:  {"fragment-orphan", "A fragment whose first one has not passed"},
	FragmentLimit:   {"fragment-limit", "A fragment of a datagram in too many pieces out of order"},
	Unrelated:       {"icmp-unrelated", "An ICMP error about nothing that a flow has sent, or with an MTU that no link has"},
	EgressPolicy:    {"egress-policy", "What the sender's egress rules or their default refuse"},
	IngressPolicy:   {"ingress-policy", "What the receiver's ingress rules or their default refuse"},
	LimitPackets:    {"limit-packets", "More packets than the policy's limit"},
	LimitBandwidth:  {"limit-bandwidth", "More bits than the policy's limit"},
	LimitNewFlows:   {"limit-new-flows", "More new flows than the policy's limit"},

	TTLExceeded: {"ttl-exceeded", "TTL or hop limit used up"},
	TooBig:      {"too-big", "Larger than the egress MTU, and may not be fragmented"},
	LinkLocal:   {"link-local", "Link-local source or destination is never forwarded"},
	Multicast:   {"multicast", "Multicast is not routed"},
	Broadcast:   {"broadcast", "Limited or directed broadcast"},
	UnboundDst:  {"unbound-dst", "An address of ours that no guest is bound to"},
	KernelHeld:  {"kernel-held", "Dom0's own address, which its kernel serves"},
	Loop:        {"loop", "Back to the guest that it came from"},
	NoRoute:     {"no-route", "No route to the destination"},
	NoNeighbour: {"no-neighbour", "The next hop does not answer"},
	HostPolicy:  {"host-policy", "Toward dom0, which no rule admits"},
	RouterLocal: {"router-local", "To the router itself, which offers only echo"},
	RouterLimit: {"router-limit", "More echo requests or DHCP messages to the router than the sender's share"},
	QueueFull:   {"queue-full", "The egress link or a bounded queue took no more"},
	LinkDown:    {"link-down", "The egress link is down"},
	ForeignMAC:  {"foreign-mac", "A frame whose source MAC is not the uplink's was kept off the uplink"},
	Internal:    {"internal", "A defect of ours; the packet was dropped and the process lives"},
}

// String is the word for the reason: lower case, stable, the same everywhere.
func (r Reason) String() string {
	if r < reasonCount {
		return reasons[r].word
	}
	return "invalid"
}

// ParseReason is the reason of a word; an error where there is none.
func ParseReason(word string) (Reason, error) {
	for r := Reason(1); int(r) < Reasons; r++ {
		if r.String() == word {
			return r, nil
		}
	}
	return None, fmt.Errorf("there is no reason %q: README.md has all, and `udrouter drops` those that there were", word)
}

// Text is what the reason means, in one sentence without its full stop.
func (r Reason) Text() string {
	if r < reasonCount {
		return reasons[r].text
	}
	return "No reason of this program"
}
