package conformance

// requirement is what an RFC wants of a router, or of what proxies for others, in words of ours.
type requirement struct {
	rfc     int
	section string
	level   string // MUST, SHOULD or MAY; MUST NOT and SHOULD NOT as MUST and SHOULD
	text    string
	rows    string // of package cases: an attack's number (0: none), a colon, a regular expression for names; several with "; " between
	tests   string // "package.TestX", several with spaces between
	not     string // why it is not met; "but ...": what of it is not. Rows and tests show then what is done instead
}

const (
	must, should, may = "MUST", "SHOULD", "MAY"

	// Reasons that several share.
	onlyMACs   = "what is forwarded changes in MACs and TTL alone: guests' packets are not ours to write into, and both options serve nobody today (RFC 7126 4.5, 4.6)"
	noRedirect = "guests' ports are isolated: none may be told another next hop"
	notABridge = "it proxies for a router, and does not bridge links into one"
)

var requirements = []requirement{
	// Requirements for IP Version 4 Routers.
	{1812, "4.2.2.1", must, "The router can be the destination of a source route", "66:source route", "", "they are refused always, as RFC 7126 4.3 and 4.4 have it"},
	{1812, "4.2.2.6", must, "Options that are not understood are passed over", "66:all other kinds", "", ""},
	{1812, "4.2.2.3", must, "Bits that are reserved or unused do not make a packet invalid, and pass", "0:TOS stays", "", ""},
	{1812, "4.2.2.5", must, "The header checksum is tested, and a datagram with a wrong one dropped without a word", "14:IPv4 header", "policy.TestIPv4HeaderChecksum", ""},
	{1812, "4.2.2.5", must, "What is behind the IP header is not changed: wrong checksums stay wrong", "14:stays", "integration.TestChecksums", ""},
	{1812, "4.2.2.7", must, "A datagram larger than the way out is fragmented where it may be", "", "router.TestFragmentsByTheRouter router.TestMTU integration.TestPathMTU", ""},
	{1812, "4.2.2.8", must, "A datagram to the router itself is reassembled", "", "router.TestOwnReassembly", ""},
	{1812, "4.2.2.9", must, "TTL does not matter for what is for the router itself", "60:echo to the router|echo to the gateway", "", ""},
	{1812, "4.2.2.11", must, "0/8, 127/8, groups and broadcasts are no source; such packets are dropped", "18:.; 23:no host has", "", ""},
	{1812, "4.2.2.11", must, "A packet for 127/8 or 0/8 does not leave", "20:nobody's$|nobody's,", "", ""},
	{1812, "4.2.3.1", should, "Packets to the first address of a prefix, as to its last, are for no host, and are dropped without a word", "20:broadcast", "", ""},
	{1812, "4.3.2.1", must, "ICMP of an unknown type to the router is dropped without a word", "76:ICMP that; 25:protocols of all kinds to the router", "", ""},
	{1812, "4.3.2.2", must, "ICMP messages of the router begin with a TTL of their own", "60:TTL", "", ""},
	{1812, "4.3.2.3", should, "An error quotes as much of the packet as fits into 576 bytes", "0:long", "router.TestMTU router.TestFragmentsByTheRouter", ""},
	{1812, "4.3.2.3", must, "The quote is the datagram as it came, TTL included", "60:TTL", "", ""},
	{1812, "4.3.2.4", must, "An error is sent from an address of the interface by which it leaves, or else from the router-id (4.2.2.2)", "60:TTL", "router.TestErrorSource",
		"but of several IPv4 networks each has its own: to guests errors come from the gateway's address of theirs. On the uplink the router has no address. Those of eth0 are the kernel's, " +
			"which would get what errors from there draw, and has no state for it; so the gateway's address of the guest's network is the router-id, which routes back to the router"},
	{1812, "4.3.2.5", should, "Errors have precedence 6 or 7", "60:TTL", "", ""},
	{1812, "4.3.2.5", should, "Errors have the TOS bits of what they are about", "60:TTL", "", "since RFC 2474 those bits are not apart from the precedence: errors are of class CS6"},
	{1812, "4.3.2.5", must, "An echo reply has the request's precedence, and its type of service", "0:type of service", "", ""},
	{1812, "4.3.2.7", must, "No error about an ICMP error", "68:error", "", ""},
	{1812, "4.3.2.7", must, "No error about a datagram to a broadcast or multicast address", "68:multicast|to a directed|to everyone", "", ""},
	{1812, "4.3.2.7", must, "No error about a frame to many", "68:broadcast frame; 7:.", "", ""},
	{1812, "4.3.2.7", must, "No error about a later fragment", "68:later fragment", "", ""},
	{1812, "4.3.2.7", must, "No error to a source that is not one host", "68:TTL 1 from|forged", "", ""},
	{1812, "4.3.2.7", must, "No error about what the rules for validity had dropped", "14:IPv4 header; 8:headers that lie", "", ""},
	{1812, "4.3.2.8", should, "Errors can be limited in their rate", "", "router.TestErrorLimits router.TestErrorsOfAllKinds integration.TestErrorShares", ""},
	{1812, "4.3.2.8", should, "Those limits can be configured", "", "", "they are fixed, a share for each guest"},
	{1812, "4.3.3.1", must, "Destination unreachable, code 0, where there is no route", "", "router.TestErrorsOfAllKinds integration.TestDefaultsFollowTheKernel", ""},
	{1812, "4.3.3.1", must, "Code 1, where a host of an own network is silent", "", "router.TestNextHopUnreachable", ""},
	{1812, "4.3.3.3", should, "No source quench, and none is acted on", "70:source quench", "", ""},
	{1812, "4.3.3.4", must, "Time exceeded, code 0, when TTL is used up", "60:TTL", "", ""},
	{1812, "4.3.3.5", must, "Parameter problem for errors in the header for which there is no other message", "66:contradict", "", "they are dropped and counted: to answer what is malformed helps an attacker alone"},
	{1812, "4.3.3.6", must, "Echo requests to the router are answered, with all their data, from the address that was asked", "0:echo to the gateway; 60:echo to the", "router.TestOwnReassembly", ""},
	{1812, "4.3.3.6", must, "An echo request whose own source is a broadcast or group is not answered", "18:no host has|broadcast", "", ""},
	{1812, "4.3.3.7", should, "No information request or reply is sent or answered", "76:ICMP that", "", ""},
	{1812, "4.3.3.8", may, "Timestamp requests are answered", "76:ICMP that", "", "counted as `icmp-type`: a clock is for nobody to read"},
	{1812, "4.3.3.9", must, "Address mask requests are answered", "", "", "RFC 6918 2.1 has made them historic; counted as `icmp-type`"},
	{1812, "4.3.3.10", must, "Router discovery is supported on all links", "", "", "guests are told their gateway by DHCP, or by hand; ICMP router discovery (RFC 1256) has no authentication and no use besides"},
	{1812, "4.4", should, "The host part of IGMP is there", "74:IGMP", "", "the router is in no IPv4 group, and has nothing to report"},

	{1812, "5.2.2", must, "Version, header length and total length are tested; what contradicts the frame is dropped without a word", "8:headers that lie|cut off", "policy.TestTruncation policy.TestShortHeaders", ""},
	{1812, "5.2.2", must, "A packet is never shortened or forwarded as something else than it declares; padding of the link is cut off", "0:padding; 8:.", "", ""},
	{1812, "5.2.3", must, "What is for the router is delivered, not forwarded", "0:echo to; 76:.", "", ""},
	{1812, "5.2.4.3", must, "The longest prefix decides on the next hop", "", "router.TestFollowKernel", ""},
	{1812, "5.2.5", must, "Bits that are reserved pass unchanged", "0:TOS stays", "", ""},
	{1812, "5.2.6", must, "Datagrams in transit are not reassembled; fragments pass as they are, in any order", "0:fragment; 59:copies|out of order", "", ""},
	{1812, "5.2.7.1", must, "Where a datagram that is too large may not be fragmented, code 4, with the MTU (RFC 1191)", "", "router.TestMTU integration.TestPathMTU", ""},
	{1812, "5.2.7.1", must, "Where others of a network might be reached, the code is not that for all of it", "", "router.TestNextHopUnreachable", ""},
	{1812, "5.2.7.1", should, "Code 13 where a rule forbids", "", "router.TestReject", ""},
	{1812, "5.2.7.2", must, "Redirects for hosts can be generated", "24:every kind", "", noRedirect},
	{1812, "5.2.7.2", must, "No redirect for networks is sent; of others, none is acted on or forwarded", "55:ICMP redirect", "", ""},
	{1812, "5.2.7.3", must, "Time exceeded, code 0, for what is dropped because of TTL, but not about what no error may be sent about", "60:TTL; 68:TTL", "", ""},
	{1812, "5.2.8", should, "The multicast router's part of IGMP is there", "74:IGMP", "", "nothing is forwarded to groups, and IGMP neither"},
	{1812, "5.3.1", must, "TTL is decremented by one at least, and a packet whose TTL would be 0 is not forwarded", "60:TTL; 0:TTL 2|hop limit 2", "", ""},
	{1812, "5.3.1", must, "TTL is tested for what is forwarded alone; nothing with a TTL above 1 is dropped for it", "60:2 and 255", "", ""},
	{1812, "5.3.2", should, "Routes are chosen by the type of service as well", "", "", "they are the kernel's main ones, which know none"},
	{1812, "5.3.3.3", must, "Precedence, and so DSCP and ECN, pass unchanged", "0:TOS stays|traffic class", "integration.TestSuperPackets", ""},
	{1812, "5.3.4", must, "A packet that came in a frame to many is not forwarded, unless its own address is a group", "7:.", "", ""},
	{1812, "5.3.5.1", must, "Limited broadcasts are not forwarded", "20:limited|^broadcasts", "", ""},
	{1812, "5.3.5.2", must, "Directed broadcasts are forwarded, by default", "20:directed", "dom0.TestBroadcastIsHeld", "RFC 2644 has turned the default round: they are not"},
	{1812, "5.3.6", should, "When there is too much, packets are dropped, and no source quench sent", "", "stack.TestUplinkQueueFull", ""},
	{1812, "5.3.7", should, "Packets with sources or destinations that nobody has are dropped, and that can be seen", "18:.; 20:nobody's; 23:no host", "", ""},
	{1812, "5.3.8", should, "A source is tested against the side where its owner is", "16:.; 17:.; 22:.; 26:.; 30:.", "router.TestBindingGrid router.TestRandomSources",
		"but always: that it can be turned off, and is by default, has been left behind (RFC 2827, RFC 3704)"},
	{1812, "5.3.9", should, "Packets can be filtered by address, protocol and port; what is filtered is counted, and told if so configured", "71:closed port|rejected", "router.TestRules router.TestReject", ""},
	{1812, "5.3.11", should, "Forwarding can be turned off for an interface, and errors are not sent about that", "", "dom0.TestStrangerPassesNothing integration.TestVifStaysLocked", ""},
	{1812, "5.3.12.2", should, "When the router begins to forward, it says so at once to those who rely on it", "", "router.TestAnnounce router.TestAnnounceGateways", ""},
	{1812, "5.3.13.1", must, "Unrecognised options pass unchanged", "66:all other kinds", "", ""},
	{1812, "5.3.13.4", must, "Source route options are processed", "66:source route", "", "RFC 7126 4.3 and 4.4: they are dropped, and counted as `source-route`"},
	{1812, "5.3.13.5", must, "Record route is filled in", "66:all other kinds", "", onlyMACs},
	{1812, "5.3.13.6", must, "Timestamp is filled in", "66:all other kinds", "", onlyMACs},

	// ICMPv6.
	{4443, "2.3", must, "A message with a wrong checksum to the router is dropped", "14:to the router with", "", ""},
	{4443, "2.2(a)", must, "An answer comes from the address that was asked", "60:echo to the router|echo to the gateway; 0:echo to", "", ""},
	{4443, "2.2(b)", must, "An error about a packet to somebody else comes from a unicast address of the router", "60:hop limit", "router.TestErrorSource", ""},
	{4443, "2.4(b)", must, "Informational messages of an unknown type are dropped without a word", "76:ICMP that; 70:ICMP type", "", ""},
	{4443, "2.4(c)", must, "An error quotes as much as fits into the least MTU of IPv6", "0:a long packet", "router.TestMTU", ""},
	{4443, "2.4(e.1)", must, "No error about an error", "68:ICMPv6 error|of error", "", ""},
	{4443, "2.4(e.2)", must, "No error about a redirect", "55:^redirect", "", ""},
	{4443, "2.4(e.3)", must, "No error about a packet to a group, but for packet too big and unknown options of action 10", "68:IPv6 multicast; 20:groups", "", "but the exceptions are not made either: nothing to a group is forwarded, so that nothing can be too big"},
	{4443, "2.4(e.4), (e.5)", must, "No error about a frame to many", "7:.; 68:broadcast frame", "", ""},
	{4443, "2.4(e.6)", must, "No error to a source that is no single node", "68:hop limit 1 from", "", ""},
	{4443, "2.4(f)", must, "The rate of errors is limited, by a bucket that allows bursts", "", "router.TestErrorLimits router.TestErrorCostVaries router.TestErrorsToUplink", ""},
	{4443, "3.1", should, "Destination unreachable: code 0 without a route, 1 by policy, 3 for a silent next hop", "", "router.TestErrorsOfAllKinds router.TestReject router.TestNextHopUnreachable", ""},
	{4443, "3.1", should, "Code 2 for what goes beyond the scope of its source", "28:link-local source", "", ""},
	{4443, "3.2", must, "Packet too big, with the next link's MTU", "", "router.TestMTU integration.TestPathMTU", ""},
	{4443, "3.3", must, "Time exceeded, code 0, when the hop limit is used up, and the packet dropped", "60:hop limit", "", ""},
	{4443, "3.4", should, "Parameter problem, code 2, with a pointer to the option that was not known", "65:unknown option", "", ""},
	{4443, "4.2", must, "Echo requests are answered with their data", "0:echo to", "router.TestOwnReassembly", ""},
	{4443, "5.2", should, "ICMP of others cannot be used to end a flow: what it quotes is tested", "67:.; 71:error", "policy.TestRelated", ""},

	// Neighbor Discovery.
	{4861, "4.6", must, "Options that are not known are skipped, and those of length 0 invalidate the packet", "40:.", "policy.TestNDLengths", ""},
	{4861, "6.1.1", must, "Router solicitations: hop limit 255, checksum, code 0, 8 bytes, no source option from ::", "38:^RS; 39:^RS; 40:^RS; 54:nowhere with", "", ""},
	{4861, "6.1.2", must, "Router advertisements: a link-local source, hop limit 255, checksum, code 0, 16 bytes", "38:^RA; 39:^RA; 51:from a global|from nowhere", "", ""},
	{4861, "6.2.2", must, "A router advertises itself where it is configured to do so, and nowhere else", "54:^RS$|^RS from nowhere$|to the router", "router.TestAdvertisement integration.TestGuestIsConfigured", ""},
	{4861, "6.2.4", must, "Unsolicited advertisements come after random times between MinRtrAdvInterval and MaxRtrAdvInterval, the first three after 16 seconds at most", "", "router.TestAdvertisedTimes", ""},
	{4861, "6.2.5", should, "Hosts are told by a lifetime of 0 when the router ceases to be one", "", "router.TestAdvertisedAtTheEnd router.TestAdvertisedAfterReload router.TestAdvertisedAfterHandOver", ""},
	{4861, "6.2.6", must, "A router solicitation is answered after half a second at most, and not more often than hosts have reason to ask", "", "router.TestSolicited", ""},
	{4861, "6.2.7", should, "What other routers of the link advertise is looked at", "51:of the provider", "", "the routes are the kernel's, which does"},
	{4861, "7.1.1", must, "Solicitations: hop limit 255, checksum, code 0, 24 bytes, no group as target; from :: to a solicited-node group and without a source option", "38:^NS; 39:^NS|DAD; 14:ND with", "", ""},
	{4861, "7.1.2", must, "Advertisements: hop limit 255, checksum, code 0, 24 bytes, no group as target, not solicited when to a group", "38:^NA; 39:^NA|solicited NA", "", ""},
	{4861, "7.1.1", must, "Reserved fields and unknown options are ignored", "39:reserved; 40:unknown", "", ""},
	{4861, "7.2.2", must, "While a neighbour is asked for, packets to it wait, one at least, and are bounded", "", "router.TestNextHopResolution router.TestNextHopShares", ""},
	{4861, "7.2.2", must, "It is asked three times, a second apart; then those who wait are told: address unreachable", "", "router.TestNextHopUnreachable", ""},
	{4861, "7.2.3", must, "A solicitation is ignored whose target is neither the node's nor proxied", "42:unbound|stranger|gateway6; 43:unbound|not on the link|for nothing", "", ""},
	{4861, "7.2.3, 7.2.4", must, "From ::, it makes no entry; the answer goes to all nodes", "42:DAD; 43:DAD", "", ""},
	{4861, "7.2.4", must, "An answer has the solicited flag and goes to who asked, with the router flag of who answers", "42:^NS for a bound|unicast NS; 43:NS for the gateway", "", ""},
	{4861, "7.2.4", must, "The target link-layer address is given when the question was to a group", "42:^NS for a bound; 43:NS for", "", ""},
	{4861, "7.2.4", should, "Answers for anycast and proxied addresses do not override", "42:^NS for a bound; 43:another guest", "router.TestProxyOptions", ""},
	{4861, "7.2.5", must, "An unsolicited or false advertisement does not make an entry; an existing one is tested, not replaced", "", "router.TestGatewayMACChange router.TestScanLearnsNothing integration.TestGatewayMoves", ""},
	{4861, "7.2.6", may, "A proxy sends unsolicited advertisements, at most three, when it begins to proxy for an address", "", "router.TestAnnounce router.TestFlapRefreshes", ""},
	{4861, "7.2.8", must, "A proxy answers for an address that it is configured for, with its own MAC, and joins the groups for it", "42:^NS for a bound|from a link-local", "integration.TestCases router.TestAnswersToGateway", ""},
	{4861, "7.2.8", must, "No answer of a proxy's overrides", "42:^NS for a bound; 43:another guest", "router.TestProxyOptions", "but if `proxy.override` wants it, they do"},
	{4861, "7.2.8", should, "A proxy's answer is delayed, so that the owner's comes first", "42:^NS for a bound", "", "guests cannot be heard on the uplink, so that there is nobody to wait for"},
	{4861, "7.3.3", must, "A neighbour in use is probed before its entry is given up", "", "router.TestGatewayMACChange router.TestIdleNeighbourGoes", ""},
	{4861, "8.1", must, "Redirects: link-local source, hop limit 255, checksum, code 0, 40 bytes", "38:^redirect; 39:^redirect; 55:global", "", ""},
	{4861, "8.2", should, "A router sends redirects", "24:every kind", "", noRedirect},
	{4861, "8.2", must, "A router does not act on redirects", "55:^redirect", "", ""},

	// Neighbor Discovery proxies (experimental).
	{4389, "4.1", must, "What is forwarded between the proxied links keeps its hop limit", "", "", "it is routed, so that it loses one; the provider's router sees no difference"},
	{4389, "4.1", must, "Packets of all kinds are passed on, those to groups and link-local ones among them", "20:groups; 28:.; 30:link-local", "", notABridge + ": groups and link-local addresses stay on their links"},
	{4389, "4.1.1", must, "What is too big for the way out is dropped, and its sender told", "", "router.TestMTU", ""},
	{4389, "4.1.2", must, "Link-layer addresses of one side, in headers and in messages, never reach the other", "42:NS for; 43:NS for", "integration.TestBridge", ""},
	{4389, "4.1.3.1", must, "Solicitations are passed on, and not answered from what the proxy knows", "42:^NS for a bound; 43:NS for another guest", "router.TestLearned",
		"they are answered, as RFC 4861 7.2.8 has it: who has which address is configured, and no host moves to another side. With `answer = \"learned\"` its owner is asked first"},
	{4389, "4.1.3.2", must, "Advertisements are passed on", "45:.", "", "none is, as no solicitation is"},
	{4389, "4.1.3.3", must, "Router advertisements are passed on with the proxy bit, and a second proxy on the way is noticed", "51:.", "", notABridge + ": neither side's advertisements pass, so that there can be no loop of proxies"},
	{4389, "4.1.3.4", must, "Redirects are passed on with rewritten addresses", "55:^redirect", "", notABridge},
	{4389, "6", must, "A loop is prevented", "0:to itself; 60:.", "", ""},
	{4389, "9", should, "A proxy is no way to take over or to deny others' traffic", "44:.; 45:.; 50:.", "router.TestSweep router.TestLearned router.TestLearnedShares", ""},

	// Filtering ICMPv6.
	{4890, "4.3.1", must, "Errors 1, 2, 3/0, 4/1, 4/2 and echo pass", "70:error [1234]/; 0:internet to guest, IPv6", "router.TestICMPMatrix", "but errors only if they are about a flow, and echo as the rules say"},
	{4890, "4.3.2", should, "3/1 and 4/0 pass; mobility, 144 to 147, unless nobody needs it", "70:error [34]/", "router.TestICMPMatrix", "but mobility does not"},
	{4890, "4.3.3", must, "What is for the link does not cross the router: ND, inverse ND, MLD, SEND, multicast router discovery", "38:.; 70:ICMP type; 74:MLD", "router.TestICMPMatrix", ""},
	{4890, "4.3.4", should, "Seamoby, unallocated errors and messages as the policy has it", "70:ICMP type", "", ""},
	{4890, "4.3.5", should, "Node information, router renumbering and experiments are dropped", "70:ICMP type", "", ""},
	{4890, "4.4.1", must, "To the router: errors, echo, RS, RA, NS, NA, MLD are not filtered", "0:echo to; 43:NS for the gateway; 54:^RS", "", ""},
	{4890, "4.4.4", should, "Redirects to the router are dropped where it does not need them", "55:^redirect", "", ""},
	{4890, "4.3.1", must, "Packet too big can never be turned off", "67:an MTU of 1[2345]", "policy.TestRelated policy.TestTooBigWhateverTheRules", ""},

	// Fragmentation of Neighbor Discovery.
	{6980, "5", must, "NS, NA, RS, RA, redirects and certification path solicitations in fragments, atomic ones included, are ignored", "47:.", "policy.TestParse", ""},
	{6980, "5", must, "None is sent in fragments", "43:NS for", "", ""},
	{6980, "5", should, "Certification path advertisements in fragments are processed", "47:path advertisement", "", "there is no SEND (RFC 8504 5.5), and they are for one link alone (RFC 4890 4.3.3)"},

	// IPv6.
	{8200, "3", must, "The hop limit is decremented; at 0 or 1 the packet is dropped and its sender told", "60:hop limit", "", ""},
	{8200, "4", must, "Extension headers but hop-by-hop are not processed, inserted or deleted on the way", "65:.; 64:no segments", "", "but they are read, to know the transport header: 10 of them, and 512 bytes"},
	{8200, "4.1", should, "Hop-by-hop comes first", "65:hop-by-hop (behind|twice)", "", ""},
	{8200, "4.2", must, "Unknown options: 00 skipped, 01 dropped, 10 and 11 told, 11 not about groups", "65:option", "policy.TestMessagesInExtensionHeaders", ""},
	{8200, "4.2", must, "PadN and Pad1 are no reason to drop", "65:padding", "", ""},
	{8200, "4.3", should, "Hop-by-hop options are looked at only if configured; others are passed on", "65:hop-by-hop|from hop to hop", "", "they are looked at always, on the fast way and at no other cost"},
	{8200, "4.4", must, "A routing header of unknown type to the router: with segments left parameter problem, code 0, without ignored", "64:to the router|no segments", "policy.TestNotedHeaders", ""},
	{8200, "4.5", must, "Packets in transit are not fragmented, and fragments not reassembled", "0:IPv6 fragment; 59:copies", "router.TestMTU", ""},
	{8200, "4.5", must, "To the router: fragments of no multiple of 8 bytes, too long ones and overlapping ones are dropped", "61:.; 59:overlap", "router.TestOwnReassembly", ""},
	{8200, "4.5", must, "What is not complete in 60 seconds is given up, and its sender told when the first was seen", "", "router.TestFragmentTimeout router.TestOwnReassembly", ""},
	{8200, "4.7", must, "What stands behind no next header passes unchanged", "65:no next header; 0:no next header", "", ""},
	{8200, "5", must, "Links have an MTU of 1280 at least", "", "integration.TestMTUChanges router.TestGuestMTUStays", ""},
	{8200, "6", must, "The flow label passes unchanged", "0:traffic class", "", ""},
	{8200, "7", must, "The traffic class passes unchanged", "0:traffic class", "integration.TestSuperPackets", ""},
	{8200, "8.1", must, "UDP without a checksum is for its receiver to drop", "14:stays wrong", "", ""},

	// IPv6 Node Requirements.
	{8504, "5.1", must, "Overlapping fragments are dropped", "59:overlap", "", ""},
	{8504, "5.2", must, "Routing headers of type 0 are not followed (RFC 5095)", "64:.", "", ""},
	{8504, "5.2", should, "A packet is forwarded whatever extension headers it has (RFC 7045)", "65:.; 64:.", "policy.TestLongChains", "but not with a routing header of type 0, and not if they are too many to read: 10, and 512 bytes"},
	{8504, "5.2", should, "A first fragment without the whole header chain is dropped, and its sender told", "58:a first fragment", "", "but its sender is not told, which RFC 7112 5 leaves to routers"},
	{8504, "5.3", may, "Chains of extension headers are limited, and the limits are known", "65:extension header", "policy.TestLongChains", ""},
	{8504, "5.4", must, "Neighbor Discovery, neighbour unreachability detection and duplicate address detection", "42:.; 43:.", "router.TestDuplicateLinkLocal router.TestGatewayMACChange", ""},
	{8504, "5.4", must, "Redirects can be sent", "24:every kind", "", noRedirect},
	{8504, "5.5", may, "SEND", "40:SEND", "", "not done; its options are skipped"},
	{8504, "5.7.1", should, "Path MTU discovery works through it", "67:.", "integration.TestPathMTU", ""},
	{8504, "5.8", must, "ICMPv6", "60:.; 68:.; 70:.", "", ""},
	{8504, "5.11", must, "MLDv2, where the router has to hear groups", "74:MLD", "", "it hears all of its links, and forwards to no group, so that it is no MLD router"},
	{8504, "14.1", must, "Router Alert is heeded, if a protocol that the router speaks needs it", "65:router alert", "", "but none does, so that packets with it are forwarded as others are"},
	{8504, "14.2", must, "A router advertises itself", "", "router.TestAdvertisement", ""},
	{8504, "14.3", should, "It can relay DHCPv6", "56:REPLY|SOLICIT|ADVERT", "", "it serves guests itself where a `dhcp` block says so (router.TestDHCPv6), and relays for nobody"},
	{8504, "14.4", must, "It forwards by prefixes of any length (BCP 198)", "", "router.TestBindingGrid policy.TestMatch router.TestPrefixCoversOthers", ""},

	// Proxy ARP.
	{1027, "2.4", must, "It answers only when the target is behind another interface than the question", "31:.; 32:.", "router.TestNotIsolated", ""},
	{1027, "2.4", must, "It does not answer for itself or the asker, for a host of the asker's own link, or for a broadcast address", "31:^ARP for [0-9]; 32:for the provider|another station|itself", "", ""},
	{1027, "2.1", must, "The answer has the router's MAC, and goes to who asked", "31:another guest; 35:another guest", "integration.TestProxiedARP router.TestProxiedARP", ""},
	{1027, "2.2", should, "It answers only where it has a route to the target", "32:routed network", "router.TestProxyARP router.TestLearned", ""},

	// IPv4 Address Conflict Detection.
	{5227, "2.1.1", must, "A sender's hardware address is its own", "33:.; 32:sender", "", ""},
	{5227, "2.1.1", must, "A probe with a sender address of 0 makes no entry", "35:.", "router.TestScanLearnsNothing", ""},
	{5227, "2.1.1", must, "A proxy does not answer a host's probe for its own address, which it would lose", "35:its own", "", ""},
	{5227, "2.3", must, "An address that appears is announced", "", "router.TestAnnounce router.TestAnnounceGateways", ""},
	{5227, "2.4", must, "A conflict is defended against, once in ten seconds at most, or the address given up", "34:gratuitous ARP", "", "but no claim is answered with another: a false one is dropped before anybody hears it; on the uplink the owner's answers go on"},
	{5227, "2.4", must, "Claims are looked at in all ARP packets, replies included", "33:.; 34:.", "", ""},
	{5227, "2.5", must, "Requests are answered whatever claims there are, and probes as well", "35:another guest's|gateway's; 31:for the gateway", "", ""},
	{5227, "2.6", should, "Replies are not broadcast", "31:.; 32:.", "integration.TestProxiedARP", ""},
}
