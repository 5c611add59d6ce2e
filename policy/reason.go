package policy

// Reason tells why a packet did not pass. It is a closed type: logs, status, metrics and explain use the
// same word for it, and a drop without one does not exist. None is the zero value: nothing was wrong.
type Reason uint8

const (
	None Reason = iota

	// Found by the parser: what the bytes say of themselves.
	Malformed     // a length, version or option that contradicts the frame
	Checksum      // IPv4 header checksum, or that of an ND message
	VLAN          // 802.1Q or 802.1ad tag, in the frame or stripped from it
	EtherType     // neither ARP, IPv4 nor IPv6; 802.3 with LLC
	HeaderChain   // IPv6 extension headers beyond MaxChain or MaxHeaders, or cut off by fragmentation
	RoutingHeader // IPv6 routing header type 0 (RFC 5095)
	SourceRoute   // IPv4 loose or strict source route
	TinyFragment  // a first fragment without its whole transport header (RFC 1858, RFC 7112), or one that would rewrite it (RFC 3128)
	OversizeFrag  // a fragment that ends beyond 65535 bytes
	NDHopLimit    // ND that has crossed a router (RFC 4861 7.1)
	NDMalformed   // ND with a wrong code, length or option (RFC 4861 7.1)
	NDFragment    // ND in a fragment (RFC 6980)
	ARPMalformed  // ARP that is not Ethernet and IPv4

	// Found by guards and bindings.
	MACInvalid  // zero or group source MAC
	MACBinding  // a source MAC that no guest is bound to
	OtherHost   // unicast to a MAC that is not the router's
	L2Multicast // unicast IP in a broadcast or multicast frame
	MartianSrc  // a source that no host may have
	MartianDst  // a destination that is never forwarded
	IPBinding   // an IPv4 source that is not bound to the guest
	IP6Binding  // an IPv6 source that is not bound to the guest
	SpoofUplink // a source of ours that comes from the uplink
	ARPSpoof    // ARP for an address or MAC that is not the sender's
	NDSpoof     // ND for an address or MAC that is not the sender's
	RAGuard     // router advertisement from a guest
	Redirect    // ICMP or ICMPv6 redirect
	ICMPType    // an ICMP or ICMPv6 type that no router passes (RFC 4890, RFC 6918)
	DHCPGuard   // DHCP of a server, or of a client to everyone
	NDLimit     // more ARP, ND or MLD than the sender's share
	HostSource  // from dom0 with an address that dom0 does not hold

	// Found by state, rules and limits.
	TCPFlags        // flags that no TCP sends together: none, SYN and FIN, SYN and RST, FIN without ACK
	TCPState        // a TCP segment that its connection's state does not allow
	TCPWindow       // a TCP segment or reset outside of its connection's window
	NoFlow          // belongs to no flow and may not open one
	FlowSide        // of a flow, but from a side where the flow has no end
	FlowLimit       // no more flows at a time
	FragmentOverlap // a fragment of a datagram that has overlapping ones (RFC 5722)
	FragmentOrphan  // a fragment whose first one has not passed
	FragmentLimit   // a fragment of a datagram in too many pieces out of order
	Unrelated       // an ICMP error about nothing that a flow has sent
	EgressPolicy    // what the sender's egress rules or their default refuse
	IngressPolicy   // what the receiver's ingress rules or their default refuse
	LimitPackets    // more packets than the policy's limit
	LimitBandwidth  // more bits than the policy's limit
	LimitNewFlows   // more new flows than the policy's limit

	// Found by the forwarder.
	TTLExceeded // TTL or hop limit used up
	TooBig      // larger than the egress MTU, and may not be fragmented
	LinkLocal   // link-local source or destination is never forwarded
	Multicast   // multicast is not routed
	Broadcast   // limited or directed broadcast
	UnboundDst  // an address of ours that no guest is bound to
	KernelHeld  // dom0's own address, which its kernel serves
	Loop        // back to the guest that it came from
	NoRoute     // no route to the destination
	NoNeighbour // the next hop does not answer
	HostPolicy  // toward dom0, which no rule admits
	RouterLocal // to the router itself, which offers only echo
	RouterLimit // more echo requests to the router than the sender's share
	QueueFull   // the egress link or a bounded queue took no more
	LinkDown    // the egress link is down
	ForeignMAC  // a frame whose source MAC is not the uplink's was kept off the uplink
	Internal    // a defect of ours; the packet was dropped and the process lives

	reasonCount
)

// Reasons is the number of reasons, None included; Reason values are below it.
const Reasons = int(reasonCount)

var reasonWords = [Reasons]string{
	None: "none", Malformed: "malformed", Checksum: "checksum", VLAN: "vlan", EtherType: "ethertype",
	HeaderChain: "header-chain", RoutingHeader: "routing-header", SourceRoute: "source-route",
	TinyFragment: "tiny-fragment", OversizeFrag: "oversize-fragment",
	NDHopLimit: "nd-hoplimit", NDMalformed: "nd-malformed", NDFragment: "nd-fragment", ARPMalformed: "arp-malformed",
	MACInvalid: "mac-invalid", MACBinding: "mac-binding", OtherHost: "other-host", L2Multicast: "l2-multicast",
	MartianSrc: "martian-src", MartianDst: "martian-dst", IPBinding: "ip-binding", IP6Binding: "ip6-binding",
	SpoofUplink: "spoof-ingress", ARPSpoof: "arp-spoof", NDSpoof: "nd-spoof", RAGuard: "ra-guard",
	Redirect: "redirect", ICMPType: "icmp-type", DHCPGuard: "dhcp-guard", NDLimit: "nd-limit", HostSource: "host-src",
	TCPFlags: "tcp-flags", TCPState: "tcp-state", TCPWindow: "tcp-window", NoFlow: "no-flow", FlowSide: "flow-side",
	FlowLimit: "flow-limit", FragmentOverlap: "fragment-overlap", FragmentOrphan: "fragment-orphan", FragmentLimit: "fragment-limit", Unrelated: "icmp-unrelated",
	EgressPolicy: "egress-policy", IngressPolicy: "ingress-policy", LimitPackets: "limit-packets", LimitBandwidth: "limit-bandwidth",
	LimitNewFlows: "limit-new-flows",
	TTLExceeded:   "ttl-exceeded", TooBig: "too-big", LinkLocal: "link-local", Multicast: "multicast",
	Broadcast: "broadcast", UnboundDst: "unbound-dst", KernelHeld: "kernel-held", Loop: "loop",
	NoRoute: "no-route", NoNeighbour: "no-neighbour", HostPolicy: "host-policy", RouterLocal: "router-local",
	RouterLimit: "router-limit", QueueFull: "queue-full", LinkDown: "link-down", ForeignMAC: "foreign-mac",
	Internal: "internal",
}

// String is the word for the reason: lower case, stable, the same everywhere.
func (r Reason) String() string {
	if r < reasonCount {
		return reasonWords[r]
	}
	return "invalid"
}
