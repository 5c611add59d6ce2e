package main

import (
	"regexp"
	"strings"
	"sync"

	"udrouter/integration/cases"
)

// part is one way of an attack, with the rows of package cases that send it, the tests that do, or why there is none.
type part struct {
	attack int
	what   string
	rows   string // a regular expression for their names; a row is the first's that matches
	tests  string // "package.TestX", several with spaces between
	not    string // why it is not sent
}

// parts are the attacks in detail. Each row of an attack belongs to a part.
var parts = []part{
	{1, "unicast, broadcast and multicast to a neighbour; STP, LLDP, LACP", "", "integration.TestBridge integration.TestTopologies dom0.TestGuestsAreApart", ""},
	{1, "by a port that nobody is bound to, or that is not locked", "", "dom0.TestStrangerPassesNothing integration.TestVifStaysLocked", ""},
	{2, "as the neighbour, in all but the port", "", "integration.TestBridge dom0.TestForgedMACDies dom0.TestLearnedEntriesGo", ""},
	{2, "as the router", "the router's own MAC", "integration.TestBridge", ""},
	{2, "50,000 MACs, to overflow the forwarding database", "", "integration.TestBridge", ""},
	{3, "ping, ARP and TCP to what dom0 has on the bridge", "", "integration.TestDom0IsSilent dom0.TestDom0IsOutOfReach dom0.TestDom0IsSilentOnTheBridge integration.TestDom0OnBridge", ""},
	{3, "a kernel that forwards as well", "", "integration.TestCasesBesideForwarding integration.TestKernelForwardsAsWell", ""},
	{3, "the kernel's own answers for what is the router's", "", "integration.TestCasesBesideForwarding dom0.TestKernelNeitherAnswersNorForwards", ""},

	{4, "a MAC that nobody has", "a MAC that nobody has", "", ""},
	{4, "its own with one bit changed", "one bit changed", "", ""},
	{5, "multicast, broadcast and zero", "a MAC that no station", "router.TestImpossibleMACsFromUplink", ""},
	{7, "unicast to many, also with TTL 1 and 0", "unicast in frames to many", "", ""},
	{7, "to a port that is rejected out loud", "a port that is rejected", "", ""},
	{7, "NS", "unicast NS", "", ""},
	{8, "IP, ARP, TCP and NS, of every length", "cut off at every length", "policy.TestTruncation router.TestTruncated", ""},
	{8, "versions, header lengths, total lengths and data offsets that lie", "headers that lie", "policy.TestShortHeaders", ""},
	{8, "ICMP and extension headers that are cut off", "ICMP of less|extension headers of less", "", ""},
	{8, "the shortest that are whole pass", "as short as", "", ""},
	{9, "one tag, a priority tag, VLAN 4095", "802.1Q$|priority|VLAN 4095", "", ""},
	{9, "802.1ad, two tags, 0x9100 and 0x9200", "802.1ad|QinQ|twice|0x9[12]00", "policy.TestEtherTypes", ""},
	{10, "IP, ARP and RA in SNAP, with right and wrong lengths", "LLC and SNAP", "", ""},
	{10, "lengths between 1500 and 1536, other EtherTypes", "EtherTypes", "policy.TestEtherTypes", ""},
	{13, "frames larger than the way out takes", "", "router.TestOversize", ""},
	{13, "super-packets of every type, true and lying", "", "integration.TestSuperPackets integration.TestGSO router.TestSegments router.TestLyingOffloads policy.TestGSOOfUDP", ""},
	{13, "LRO on the uplink", "", "router.TestLRO", ""},
	{14, "of the IPv4 header, each bit", "IPv4 header", "policy.TestIPv4HeaderChecksum", ""},
	{14, "of TCP, UDP, ICMP and others, and 0: passed as they are", "stays wrong|stays 0", "integration.TestChecksums", ""},
	{14, "to the router, of ND, of IGMP", "to the router with|ND with|IGMP with", "", ""},
	{15, "checksums half made, of guests and on the uplink", "", "integration.TestGSO integration.TestChecksums policy.TestPartialChecksum router.TestPartialChecksums", ""},

	{16, "to everywhere, of all kinds, and in a flow of the neighbour's", "the other guest's address", "", ""},
	{17, "of the prefix, of others, private, random", "nobody's address", "router.TestRandomSources", ""},
	{18, "0/8, loopback, link-local, groups, class E, broadcast", "a source that no host has", "", ""},
	{18, "first and last of a prefix", "a broadcast address as source", "", ""},
	{18, "the router's, dom0's, the provider's", "the router's, dom0's", "", ""},
	{20, "0/8, loopback, link-local and the metadata address, class E, and IPv6's like", "nobody's", "", ""},
	{20, "groups, in unicast and group frames", "^groups", "", ""},
	{20, "limited and directed broadcast, in unicast and broadcast frames", "broadcast", "router.TestPrefixCoversBroadcast dom0.TestBroadcastIsHeld", ""},
	{22, "guests', the router's, dom0's and unbound ones", "our own addresses", "", ""},
	{22, "in a flow between guests", "in a flow between guests", "", ""},
	{23, "0/8, loopback, link-local, groups, class E, broadcast", "no host has", "", ""},
	{23, "private and shared ones pass", "private and shared", "", ""},
	{24, "every kind passes, without a redirect, by the router's MAC and a TTL less", "every kind|and back|TTL 1|hop limit 1|^guest to guest, IPv", "integration.TestTopologies", ""},
	{24, "as the receiver's rules and state want", "policy (admits|refuses)|an answer", "", ""},
	{25, "every protocol, known or not, and tunnels with a forged packet inside", "an IP protocol|of all kinds", "router.TestEveryProtocol router.TestProtocolSweepIsBounded", ""},
	{25, "ICMP in IPv6, ICMPv6 in IPv4", "of the other family", "", ""},

	{26, "the neighbour's, in NS as well", "another guest's address|the other guest's address", "", ""},
	{26, "unbound ones, another prefix, SLAAC's and temporary ones", "nobody's address", "router.TestBindingGrid", ""},
	{27, "::, ::1, groups, mapped, compatible, site-local, 6to4, Teredo and NAT64 of what is private, discard", "no host has", "", ""},
	{27, "the router's and the provider's", "the router's, dom0's", "", ""},
	{27, "ULA and 6to4 that some host may have", "may have", "", ""},
	{28, "to the internet, to a neighbour, to dom0", "link-local source", "", ""},
	{28, "to link-local addresses elsewhere", "to another's link-local|on other links", "router.TestLinkLocalsAreOfTheirLink", ""},
	{28, "the neighbour's, the router's", "another guest", "", ""},
	{30, "guests', the router's, unbound ones", "our own addresses|a guest's address|NS from|the router's and dom0's", "", ""},
	{30, "link-local ones", "link-local addresses from the uplink", "", ""},

	{31, "for the gateway and for a neighbour: answered", "for (the gateway|another guest)|of the other guest|a target MAC|padding|^ARP of", "router.TestNotIsolated", ""},
	{31, "for itself, for nobody, off the link: not", `^ARP for [0-9.]+`, "", ""},
	{31, "to another station's MAC", "to another station", "", ""},
	{32, "for guests of a routed network, the gateway, others, dom0", "^ARP (for|of|to)|a reply to", "", ""},
	{32, "for guests of a proxied network", "", "integration.TestProxiedARP router.TestProxiedARP router.TestProxyARP", ""},
	{32, "with our addresses or MACs as the sender's", "ARP from|sender|without an address", "", ""},
	{33, "sender MAC and frame's differ, or is a group's", "sender MAC|as sender|inside", "", ""},
	{33, "sender address: the neighbour's, the router's, the gateway's, 8.8.8.8, broadcast", "from [0-9.]+", "", ""},
	{33, "replies that nobody wanted", "^a reply", "", ""},
	{33, "other hardware, protocols, lengths, operations; cut off", "ARP with (hardware|protocol|lengths|[0-9]+ bytes|operation)", "", ""},
	{34, "on the uplink for ours", "on the uplink", "", ""},
	{34, "for the neighbour's, the router's and nobody's address", "gratuitous ARP", "integration.TestGatewayMoves router.TestGatewayMACChange", ""},
	{34, "of the owner", "of the owner", "", ""},
	{35, "for its own address: no answer", "for its own", "", ""},
	{35, "for a neighbour's, the gateway's, nobody's", "probe (for|off)|unicast probe", "", ""},
	{35, "with another MAC, or a reply without an address", "with another MAC|without an address", "", ""},
	{37, "requests and replies, thousands of senders and targets", "", "integration.TestNeighbourFloods router.TestNeighbourFloods router.TestAnswerShares", ""},

	{38, "all five kinds with hop limits of 254, 64, 1 and 0", "with hop limit", "", ""},
	{39, "codes, lengths, checksums", "with code|bytes|checksum", "policy.TestNDLengths", ""},
	{39, "reserved bits are ignored", "reserved bits", "", ""},
	{39, "groups as targets, DAD to all nodes or with a source option", "for a group|to a group|DAD", "", ""},
	{40, "length 0, cut off, too long", "half an option|length 0|too many|bytes", "policy.TestNDLengths policy.TestNDOptionsAllocateNothing", ""},
	{40, "the same twice, alike and not", "twice|that differ", "", ""},
	{40, "unknown and others' options are skipped, 170 of them", "unknown options|NS with (a |an |one |CGA|DNSSL|PREF64|RDNSS|options)", "", ""},
	{42, "for guests: answered, O=0, also by unicast and without a source option", "^(NS (for a bound|from|without|with)|unicast NS)", "router.TestAnswersToGateway router.TestProxyOptions", ""},
	{42, "DAD of somebody for a guest's address", "DAD", "", ""},
	{42, "for nobody, the gateway, dom0, strangers: not", "NS for (an unbound|gateway6|an address|a stranger|the guests'|a guest's link)|NA of a|to another station|broadcast frame", "", ""},
	{42, "for the router itself", "the router's own", "", ""},
	{43, "for the router, neighbours and the provider's gateway: answered", "NS for (the gateway|fe80::1|another guest|the provider)|unicast", "router.TestNotIsolated", ""},
	{43, "for itself, nobody, what is elsewhere: not", "NS for (an unbound|its own|another's|what|nothing)|NS in a", "", ""},
	{43, "DAD: answered for others' addresses alone", "DAD", "", ""},
	{44, "DAD for what the neighbour uses, and after it", "DAD|NA for", "router.TestDuplicateLinkLocal", ""},
	{45, "true sender, false target, all flags, to everyone and to one", `^NA for .* to |NA for [0-9a-f:]+( on the uplink)?$|on the uplink`, "", ""},
	{45, "its own", "NA for its", "", ""},
	{45, "MACs of others or of groups in the options", "option|another MAC", "", ""},
	{45, "as a router", "of a router", "", ""},
	{47, "all kinds, SEND's as well, in atomic, first and later fragments", ".", "policy.TestParse", ""},
	{48, "behind every header, and many", "behind", "policy.TestLongChains", ""},
	{49, "600 and more senders", "", "integration.TestScan integration.TestNeighbourFloods router.TestNeighbourFloods", ""},
	{50, "one unbound address", "unbound", "", ""},
	{50, "a whole prefix, from the uplink and from a guest", "", "integration.TestScan router.TestSweep router.TestScanLearnsNothing router.TestOnLinkScan router.TestNextHopShares", ""},

	{51, "from the uplink", "of the provider's router|from the uplink", "attacks.TestRowsWhereItIsServed", ""},
	{51, "every option, lifetime, sender and destination", "^RA with|^RA in|^RA from", "attacks.TestRowsWhereItIsServed", ""},
	{51, "floods", "", "router.TestGuardFloods", ""},
	{52, "behind headers", "RA behind", "attacks.TestRowsWhereItIsServed", ""},
	{52, "in fragments", "[Ff]ragment", "attacks.TestRowsWhereItIsServed", ""},
	{52, "in tags and SNAP", "tag|SNAP|IPv4 frame", "attacks.TestRowsWhereItIsServed", ""},
	{54, "in order, to all routers and to one", "^RS($| to| from nowhere$| from the uplink)|^RS, ", "attacks.TestRowsWhereItIsServed", ""},
	{54, "with another's MAC or address, or a source option without a source", "RS (from|with)", "attacks.TestRowsWhereItIsServed", ""},
	{54, "a flood", "", "router.TestGuardFloods attacks.TestFloodsWhereItIsServed", ""},
	{55, "ICMP, all codes, from a guest and in the gateway's name", "ICMP redirect", "", ""},
	{55, "ICMPv6, with all options", "^redirect", "router.TestGuardFloods", ""},
	{56, "OFFER, ACK, NAK and others, from any port, in fragments, with options", "DHCP: (ACK|FORCE|LEASE|NAK|OFFER)", "policy.TestDHCPOptions attacks.TestRowsWhereItIsServed", ""},
	{56, "clients that ask everyone, relays, another's MAC", "DHCP: (DISCOVER|a )", "attacks.TestRowsWhereItIsServed", ""},
	{56, "DHCPv6", "DHCP: (ADVERT|RECONF|RELAY|REPLY|SOLICIT|a )", "attacks.TestRowsWhereItIsServed", ""},
	{56, "what only looks like it", "DHCP: (what|from)", "", ""},
	{56, "a flood", "", "router.TestGuardFloods attacks.TestFloodsWhereItIsServed", ""},

	{58, "TCP in the smallest pieces, flags rewritten (RFC 3128)", "pieces|flags|options written|TCP", "policy.TestTCPFragments policy.TestFragments", ""},
	{58, "UDP and ICMP in pieces of 8 bytes", "fragments? (of|has)|rest of it", "", ""},
	{58, "IPv6 whose first fragment lacks the transport header (RFC 7112)", "a first fragment", "", ""},
	{59, "teardrop, bonk, the head, the tail, around, within, after the end", "overlap|two first", "policy.TestFragmentRanges policy.TestFragments", ""},
	{59, "copies and other orders pass", "copies|out of order", "", ""},
	{60, "0 and 1, on every way", "TTL|hop limit", "", ""},
	{61, "ends without beginnings, gaps, empty ones", "without its first|middle|another|empty|gaps|later fragment", "policy.TestFragmentShares policy.TestFragmentAllocatesNothing", ""},
	{61, "beyond 65535 bytes", "65535|beyond", "", ""},
	{61, "lengths that are no multiple of 8; two Fragment headers", "bytes|two Fragment", "", ""},
	{61, "floods, and what never ends: 100,000 beginnings and as many ends, while another sends 5,000 bytes in fragments", "", "attacks.TestAttackTable router.TestFragmentFlood router.TestFragmentTimeout router.TestOwnReassembly", ""},
	{63, "TTL 1, no route, too big, 1000s a second, while others trace", "", "integration.TestErrorShares router.TestErrorLimits router.TestErrorsOfAllKinds router.TestErrorCostVaries router.TestErrorsToUplink", ""},
	{64, "type 0, through the router and to it", "routing header 0 ", "policy.TestNotedHeaders", ""},
	{64, "types 2 to 255, with and without segments left; cut off", "routing header", "", ""},
	{65, "options of all four actions, hop by hop and for the destination", "option|padding|router alert|tunnel|home address", "policy.TestNotedHeaders policy.TestMessagesInExtensionHeaders", ""},
	{65, "jumbograms", "jumbo", "", ""},
	{65, "hop-by-hop options, a flood", "", "attacks.TestAttackTable", ""},
	{65, "chains of 10 and more, and of bytes; order; cut off", "extension header|hop-by-hop|AH|no next header", "policy.TestLongChains", ""},
	{66, "source routes, loose and strict", "source route", "", ""},
	{66, "lengths that contradict the header", "contradict", "", ""},
	{66, "all others", "all other kinds", "", ""},

	{67, "MTUs of 0 to 1499, true and forged", "an MTU", "policy.TestRelated", ""},
	{67, "quotes of what nobody has sent", ".", "policy.TestRelated policy.TestRelatedSYN", ""},
	{67, "a smaller MTU on the way out", "", "integration.TestPathMTU router.TestFragmentsByTheRouter router.TestMTU", ""},
	{68, "about later fragments, (e) and (g)", "fragment", "", ""},
	{68, "to many, in packet or frame, (c) and (d)", "multicast|broadcast|everyone", "", ""},
	{68, "to who cannot be answered, (f) and (h)", "forged source|from [0-9a-f:.]|anycast", "", ""},
	{68, "about errors and redirects, (a) and (b)", "error|redirect", "", ""},
	{68, "to an anycast address on the internet", "", "", "it cannot be known as one"},
	{70, "every type, as a first packet and about a flow", ".", "router.TestICMPMatrix", ""},

	{71, "to dom0, from guests and the internet", "dom0", "integration.TestHostUplink integration.TestDom0AndGuests", ""},
	{71, "first packets that are no SYN, impossible flags", "flags|to (a |the )?(closed|open) port|SYN\\+ACK|a guest to|the internet to", "policy.TestTCP policy.TestPortsAreThere", ""},
	{71, "answers from another port or address", "answer|others|as if|neighbour|nobody asked|asks|both ask", "", ""},
	{71, "beyond the window, resets that are not exact", "window|reset", "", ""},
	{71, "after FIN, reset and TIME-WAIT; simultaneous and split opening", "after|open|handshake|FIN|SYN of|another SYN|old connection|data|^an echo", "policy.TestFlowOracle router.TestStateTimes", ""},
	{71, "ICMP errors about another's connection", "error", "", ""},
	{72, "SYN, UDP and ICMP with random ports and sources, from guest and uplink", "", "integration.TestStateFloods integration.TestFlowsAreBounded router.TestStateFloods policy.TestFlowFlood policy.TestFlowFloodFromUplink", ""},
	{72, "new connections of others meanwhile, all of which succeed: 4, with -long 1,000 in each flood", "", "attacks.TestAttackTable integration.TestStateFloods", ""},
	{72, "shares, and what is given up first", "", "policy.TestFlowBudget policy.TestFlowShares policy.TestSharesOfFlows policy.TestFlowOrder policy.TestFlowOpeningAmongEstablished", ""},

	{73, "down and up under 10,000 datagrams a second: 10 times, with -long 100", "", "attacks.TestFlapsUnderLoad", ""},
	{73, "down, up, deleted, made anew, under another index", "", "integration.TestFlaps stack.TestUplinkDownAndUp stack.TestUplinkDeletedAndMadeAgain stack.TestRebindKeepsWhatIsBound", ""},
	{73, "every error that a write may end with", "", "stack.TestWriteErrors stack.TestUplinkQueueFull", ""},
	{73, "membership of groups taken away", "", "", "it is the packet socket's own, and goes with the interface alone"},
	{73, "announcements after it", "", "router.TestFlapRefreshes router.TestAnnounce", ""},
	{74, "IGMP of every type, with and without Router Alert, other TTLs", "IGMP of all", "", ""},
	{74, "MLD queries, to become querier", "MLD queries", "", ""},
	{74, "reports and leaves, of 70 records and of a false number", "MLD reports", "", ""},
	{74, "from others' addresses, to the router alone, from the uplink", "others'|alone|uplink|router's address", "", ""},
	{74, "a flood: 100,000 queries and reports, of 70 records, which is what a frame takes, and of a thousand that are not there", "", "attacks.TestAttackTable", ""},
	{75, "of uplink and TAP: 9000, 1500, 1280, 1279, 576, 68 and back, with packets that no longer fit", "", "integration.TestMTUChanges router.TestMTU router.TestGuestMTUStays", ""},
	{75, "frames larger than a buffer", "", "router.TestOversize stack.TestMoreFramesThanEntries", ""},
	{76, "scans by TCP of all flags, UDP and others", "scan|^UDP", "", ""},
	{76, "ICMP for time, mask, name", "ICMP that", "", ""},
	{76, "echo, thousands a second", "", "router.TestAnswerShares", ""},
	{76, "the control socket from the network", "", "integration.TestControlAccess", ""},

	{77, "SIGKILL, SIGSEGV, SIGABRT under 10,000 datagrams a second and 200 connections", "", "attacks.TestKilledUnderLoad integration.TestConnectionsSurviveKill integration.TestDom0StaysConnected dom0.TestKilledRun dom0.TestKilledAtEveryStep", ""},
	{77, "a second start", "", "integration.TestSecondRun router.TestControlSocketTaken", ""},
	{77, "a start before its links", "", "integration.TestTopologies stack.TestUplinkDownAtStart integration.TestMistakes", ""},
	{77, "a panic in the data path", "", "router.TestPanicIsContained", ""},
	{78, "under 10,000 datagrams a second, one after the other: 40, with -long 1,000", "", "attacks.TestReloadsUnderLoad router.TestReloadLosesNothing integration.TestReload integration.TestReloadStorm router.TestReloadFlows", ""},
	{78, "a guest that goes, an address or MAC that changes", "", "router.TestReloadGuestGoes router.TestReloadMAC router.TestFlowIsNotForWhoGainsTheAddress", ""},
	{78, "a bad file", "", "router.TestReloadRefused router.TestReloadUndone", ""},
	{79, "SIGSTOP and SIGCONT under 10,000 datagrams a second and 200 connections: 3 times, with -long 30", "", "attacks.TestStoppedUnderLoad attacks.TestStopped", ""},
	{79, "a thread that no longer comes round", "", "router.TestAlive udrouter.TestWatchdog", ""},
	{79, "a clock that steps", "", "policy.TestBucketClock router.TestClockJumps router.TestTimeOfDay", ""},
	{80, "addresses, MACs and names twice, impossible ones, unknown keys", "", "config.TestBad policy.TestCompileErrors", ""},
	{80, "a file that others may write", "", "integration.TestDoctor", ""},
	{80, "10,000 guests and rules", "", "config.TestTenThousandGuestsAndRules", ""},
	{80, "a flood of drops, 100,000 as fast as one thread sends them, and its log", "", "router.TestLogAllocates attacks.TestLogIsBounded attacks.TestAttackTable", ""},
	{80, "any frame at all: 10 minutes of each fuzzer and 14 of soak, of the 100,000,000 frames and 24 hours that the list asks for; `-time` of either gives more", "", "policy.FuzzFrame policy.FuzzFlow router.FuzzSegments", ""},
}

// set is a collection of tools or of others' tests, and what sends the same here.
type set struct {
	what    string
	tools   string // a regular expression for command lines of tools
	attacks []int  // whose rows do
	tests   string // "package.TestX", several with spaces between
}

// sets are all that there are. Tests of others are not run as they are: their packets are rows.
var sets = []set{
	{"thc-ipv6, implementation6: extension headers and fragments", "-implementation6", nil, ""},
	{"thc-ipv6, firewall6: past a rule for TCP", "-firewall6", nil, ""},
	{"thc-ipv6, fragmentation6", "-fragmentation6", []int{58, 59, 61}, "router.TestFragmentFlood"},
	{"thc-ipv6, denial6 and exploit6", "-denial6|-exploit6", nil, ""},
	{"thc-ipv6, router advertisements: fake_router26, kill_router6, flood_router26", "router2?6", nil, ""},
	{"thc-ipv6, false neighbours: parasite6, dos-new-ip6, fake_advertise6, flood_advertise6, flood_solicitate6", "-parasite6|-dos-new-ip6|-(fake|flood)_advertise6|-flood_solicitate6", nil, ""},
	{"thc-ipv6 and nmap, to use up neighbours' tables: ndpexhaust26, sweeps", "-ndpexhaust26|nmap -n -sn", nil, "integration.TestScan router.TestSweep"},
	{"thc-ipv6, ICMPv6: redir6, toobig6, smurfs", "-redir6|-toobig6|-r?smurf6", nil, ""},
	{"thc-ipv6, ICMPv6: flood_redir6, randicmp6", "-flood_redir6|-randicmp6", []int{55, 70}, "router.TestGuardFloods router.TestICMPMatrix"},
	{"thc-ipv6, fuzz_ip6", "-fuzz_ip6", nil, "policy.FuzzFrame"},
	{"thc-ipv6, servers and queriers: fake_dhcps6, fake_mld6", "-fake_(dhcps6|mld6)", nil, ""},
	{"hping3: floods, forged sources, fragments, ICMP; thcsyn6 is the same for IPv6", "^hping3|-thcsyn6", nil, "integration.TestStateFloods"},
	{"nmap: scans of every kind, fragments, false checksums, decoys, options", "^nmap.* -s[A-Z]", nil, ""},
	{"trafgen, mausezahn, macof: frames and MACs by lot", "^(trafgen|mausezahn|macof)", nil, "integration.TestBridge policy.FuzzFrame"},
	{"arping, ndisc6: honest questions, probes and claims", "^(arping|ndisc6|rdisc6)", nil, ""},
	{"SI6's ipv6toolkit: ra6, na6, ns6, rs6, rd6, frag6, jumbo6, icmp6, flow6", "^(ra|na|ns|rs|rd|frag|jumbo|icmp|flow)6 ", nil, ""},
	{"OpenBSD, regress/sys/netinet/arp", "", []int{31, 32, 33, 34, 35}, "integration.TestProxiedARP"},
	{"OpenBSD, regress/sys/netinet6/nd6", "", []int{39, 42, 43, 44}, "router.TestNextHopResolution router.TestDuplicateLinkLocal"},
	{"OpenBSD, regress/sys/netinet6/frag6 and regress/sys/net/pf_fragment; FreeBSD, frag-over*.py", "", []int{58, 59, 61}, "policy.TestFragments router.TestOwnReassembly router.TestFragmentTimeout integration.TestPathMTU integration.TestChecksums"},
	{"OpenBSD, regress/sys/netinet6/rh0", "", []int{64}, "policy.TestNotedHeaders"},
	{"FreeBSD, CVE-2019-5597.py: headers before a later fragment", "", []int{61}, "policy.TestFragments"},
	{"FreeBSD, CVE-2019-5598.py: an ICMP error that quotes another's packet", "", []int{67, 71}, "policy.TestRelated"},
	{"the kernel as an oracle: what it forwards of packets by lot, byte by byte, and what it reports", "", nil, "router.TestLikeTheKernel router.FuzzLikeTheKernel"},
}

var names = sync.OnceValue(func() (list []*regexp.Regexp) {
	for _, p := range parts {
		list = append(list, regexp.MustCompile(p.rows))
	}
	return list
})

// has tells whether a row belongs to a part, and so to no other.
func (p part) has(c cases.Case) bool {
	if p.rows == "" || p.attack != c.Attack() {
		return false
	}
	for i, name := range names() {
		if parts[i].rows != "" && parts[i].attack == p.attack && name.MatchString(c.Name) {
			return parts[i] == p
		}
	}
	return false
}

// has tells whether a tool belongs to a set.
func (s set) has(t tool) bool {
	return s.tools != "" && regexp.MustCompile(s.tools).MatchString(t.args)
}

func (p part) testNames() []string { return strings.Fields(p.tests) }
