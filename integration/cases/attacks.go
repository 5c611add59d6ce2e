package cases

import (
	"regexp"
	"strconv"
)

// Attack is something that a guest, or a station on the uplink, does to harm others. Rows name it in Ref as "case N".
type Attack struct {
	Number  int
	Section string
	Title   string
	Source  string // where it is described, or what forbids it; rows name more in Ref
	Departs string // what the router does differently from what one would expect, and why
}

// Sections of the attacks.
var Sections = []struct{ Letter, Title string }{
	{"A", "Bridge and dom0"}, {"B", "Ethernet"}, {"C", "IPv4 addresses"}, {"D", "IPv6 addresses"}, {"E", "ARP"}, {"F", "Neighbor Discovery"},
	{"G", "RA, redirect, DHCP"}, {"H", "Fragments, extension headers, options"}, {"I", "ICMP"}, {"J", "State and floods"},
	{"K", "The router itself"}, {"L", "Its life"},
}

// Attacks are those that one packet or a few decide, and what surrounds them.
var Attacks = []Attack{
	{Number: 1, Section: "A", Title: "past the router, through the bridge", Source: "RFC 7039 3.2"},
	{Number: 2, Section: "A", Title: "the neighbour's or the router's MAC, or thousands of MACs", Source: "RFC 7039 3.2; CVE-2021-38598"},
	{Number: 3, Section: "A", Title: "dom0's kernel, past the router", Source: "RFC 1122 3.3.4.2; packet(7)"},

	{Number: 4, Section: "B", Title: "a source MAC that no guest has", Source: "RFC 7039 3.2"},
	{Number: 5, Section: "B", Title: "a source MAC that no station has", Source: "IEEE 802.3 3.2.3"},
	{Number: 7, Section: "B", Title: "unicast IP in a broadcast or multicast frame", Source: "RFC 1812 5.3.4; RFC 4443 2.4(e.4)"},
	{Number: 8, Section: "B", Title: "frames cut off at every length, and headers that lie about theirs", Source: "RFC 1812 5.2.2; CVE-2016-10377"},
	{Number: 9, Section: "B", Title: "802.1Q, 802.1ad and priority tags", Source: "VU#855201; CVE-2021-27853",
		Departs: "On the uplink, the socket's filter keeps frames with two tags away from the router, and they are not counted"},
	{Number: 10, Section: "B", Title: "802.3 with LLC and SNAP", Source: "VU#855201; CVE-2021-27854; RFC 1042",
		Departs: "On the uplink, the socket's filter keeps them away from the router, and they are not counted"},
	{Number: 13, Section: "B", Title: "frames larger than the MTU", Source: "RFC 1812 4.2.2.7; RFC 8200 5"},
	{Number: 14, Section: "B", Title: "wrong checksums", Source: "RFC 1812 4.2.2.5; RFC 8200 8.1"},
	{Number: 15, Section: "B", Title: "partial checksums", Source: "packet(7); RFC 9293 3.1"},

	{Number: 16, Section: "C", Title: "the neighbour's address as source", Source: "RFC 2827 3; RFC 7039 3.2"},
	{Number: 17, Section: "C", Title: "nobody's address as source", Source: "RFC 2827 3"},
	{Number: 18, Section: "C", Title: "a source that no host may have, the router's, dom0's, the provider's", Source: "RFC 1812 5.3.7; RFC 6890 2.2.2"},
	{Number: 20, Section: "C", Title: "destinations that are never forwarded", Source: "RFC 1812 5.3.7; RFC 3927 2.7",
		Departs: "On the uplink, the socket's filter admits the guests' prefixes alone, and what is for none of them is not counted"},
	{Number: 22, Section: "C", Title: "our own addresses as a source on the uplink", Source: "RFC 3704 2.2"},
	{Number: 23, Section: "C", Title: "sources on the uplink that no host may have", Source: "RFC 1812 5.3.7; RFC 6890 2.2.2",
		Departs: "Private and shared addresses pass, since a provider's own routers may speak from them"},
	{Number: 24, Section: "C", Title: "guest to guest, without redirects", Source: "RFC 1812 5.2.7.2"},
	{Number: 25, Section: "C", Title: "every IP protocol, and tunnels", Source: "CVE-2023-1668",
		Departs: "No protocol is refused by itself: the rules decide, and the reference lets a guest send all but TCP 25, and be sent TCP 22, 80, 443 and echo"},

	{Number: 26, Section: "D", Title: "the neighbour's or nobody's IPv6 address as source", Source: "RFC 7039 3.2; RFC 6620 3"},
	{Number: 27, Section: "D", Title: "an IPv6 source that no host may have", Source: "RFC 4291 2.5; RFC 6890 2.2.3",
		Departs: "Unique local addresses, Teredo, and 6to4 and NAT64 of public addresses pass from the uplink, where others may have them"},
	{Number: 28, Section: "D", Title: "link-local addresses beyond the link, and those of others", Source: "RFC 4291 2.5.6"},
	{Number: 30, Section: "D", Title: "our own IPv6 addresses as a source on the uplink", Source: "RFC 3704 2.2"},

	{Number: 31, Section: "E", Title: "proxy ARP toward guests", Source: "RFC 1027 2.1"},
	{Number: 32, Section: "E", Title: "proxy ARP toward the uplink", Source: "RFC 1027 2.4"},
	{Number: 33, Section: "E", Title: "ARP with a sender that is not its own", Source: "RFC 826"},
	{Number: 34, Section: "E", Title: "gratuitous ARP", Source: "RFC 5227 2.4",
		Departs: "No claim is defended against (RFC 5227 2.4): a guest's is heard by nobody but the router, and on the uplink the owner's answers go on"},
	{Number: 35, Section: "E", Title: "ARP probes", Source: "RFC 5227 2.1.1"},
	{Number: 37, Section: "E", Title: "ARP floods", Source: "RFC 6192 3"},

	{Number: 38, Section: "F", Title: "ND that has crossed a router", Source: "RFC 4861 7.1"},
	{Number: 39, Section: "F", Title: "ND with a wrong code, length or checksum", Source: "RFC 4861 7.1"},
	{Number: 40, Section: "F", Title: "ND options: of length 0, cut off, twice, unknown", Source: "RFC 4861 4.6; CVE-2020-16898"},
	{Number: 42, Section: "F", Title: "proxy NDP toward the uplink", Source: "RFC 4861 7.2.4; RFC 4861 7.2.8; RFC 4389",
		Departs: "Answers are not delayed (RFC 4861 7.2.8): nobody but the router answers for a guest"},
	{Number: 43, Section: "F", Title: "proxy NDP toward guests", Source: "RFC 4861 7.2.8; RFC 4862 5.4"},
	{Number: 44, Section: "F", Title: "to claim whatever address another tests (DAD)", Source: "RFC 3756 4.1.3"},
	{Number: 45, Section: "F", Title: "NA for an address that is not its own", Source: "RFC 3756 4.1.1; CVE-2023-5366"},
	{Number: 47, Section: "F", Title: "ND in fragments", Source: "RFC 6980 5"},
	{Number: 48, Section: "F", Title: "ND behind extension headers", Source: "RFC 7112 5; RFC 7113 3"},
	{Number: 49, Section: "F", Title: "NS floods", Source: "RFC 3756 4.3.2"},
	{Number: 50, Section: "F", Title: "scans of a whole prefix", Source: "RFC 6583 6"},

	{Number: 51, Section: "G", Title: "router advertisements of a guest", Source: "RFC 6105"},
	{Number: 52, Section: "G", Title: "the same, hidden in headers, fragments and tags", Source: "RFC 7113 2"},
	{Number: 54, Section: "G", Title: "router solicitations", Source: "RFC 4861 6.1.1",
		Departs: "No network here has an ra block, so they are not answered; where one has, router.TestSolicited and attacks.TestRowsWhereItIsServed"},
	{Number: 55, Section: "G", Title: "redirects", Source: "RFC 4861 8.1; RFC 1812 5.2.7.2"},
	{Number: 56, Section: "G", Title: "DHCP servers, and clients that ask everyone", Source: "CVE-2016-5362; RFC 3046",
		Departs: "No network here has a dhcp block, so no client may ask everyone (where one has, router.TestDHCPRowsWhereItIsServed and attacks.TestRowsWhereItIsServed); one that renews with a server that it knows may, for its own MAC and not as a relay"},

	{Number: 58, Section: "H", Title: "tiny fragments", Source: "RFC 1858; RFC 3128"},
	{Number: 59, Section: "H", Title: "overlapping fragments", Source: "RFC 5722 4; RFC 8200 4.5",
		Departs: "Exact copies of fragments pass, which receivers ignore (RFC 8200 4.5)"},
	{Number: 60, Section: "H", Title: "TTL and hop limit used up", Source: "RFC 1812 5.3.1; RFC 8200 3"},
	{Number: 61, Section: "H", Title: "fragments without end, too far, out of order", Source: "RFC 8200 4.5; CVE-2018-5391",
		Departs: "The router holds no fragment of others back, so that there are no bytes to bound and no reassembly to time out; " +
			"of echo requests to itself, what is never complete is reported in IPv6 only"},
	{Number: 63, Section: "H", Title: "to use up the ICMP errors of others", Source: "RFC 1812 4.3.2.8; RFC 4443 2.4(f)"},
	{Number: 64, Section: "H", Title: "routing headers", Source: "RFC 5095 3; RFC 8200 4.4",
		Departs: "Type 0 does not cross the router, with no segments left either; all other types pass, being their destination's business"},
	{Number: 65, Section: "H", Title: "hop-by-hop and destination options, long chains", Source: "RFC 8200 4.2",
		Departs: "Unknown options do what their type says at every hop only from hop to hop (RFC 9673 5.2), those for the destination pass as they are; a " +
			"second router alert is malformed; chains beyond the limits and jumbograms without a payload length are dropped silently; there is no slow path to limit"},
	{Number: 66, Section: "H", Title: "IPv4 options", Source: "RFC 7126 4; RFC 1812 5.3.13",
		Departs: "Record route and timestamp pass as they are, and nothing is recorded in them: a packet that is forwarded changes in MACs and TTL alone"},

	{Number: 67, Section: "I", Title: "path MTU discovery, and forged news of it", Source: "RFC 1812 5.2.6; RFC 8201 4; RFC 5927 7",
		Departs: "An MTU of 0 passes in IPv4, as routers from before RFC 1191 say it; less than 68, or in IPv6 than 1280 (RFC 8201 4), is refused whatever is quoted"},
	{Number: 68, Section: "I", Title: "packets about which no error may be sent", Source: "RFC 1812 4.3.2.7; RFC 4443 2.4(e)",
		Departs: "An anycast source on the internet cannot be known as one"},
	{Number: 70, Section: "I", Title: "every ICMP and ICMPv6 type", Source: "RFC 4890 4.3; RFC 6918",
		Departs: "Codes of time exceeded and parameter problem that RFC 7112, 8883 and 8986 have assigned since RFC 4890 pass as well; mobility does not"},

	{Number: 71, Section: "J", Title: "to pass without a state, or by another's", Source: "RFC 5961 3; RFC 5382 4",
		Departs: "A reset passes if its number lies between what its receiver has acknowledged and what its sender has sent: which of them is exact, the receiver alone knows"},
	{Number: 72, Section: "J", Title: "to use up the state of others", Source: "RFC 4987 2"},

	{Number: 73, Section: "K", Title: "an uplink that goes down, comes back, or is made anew", Source: "packet(7); RFC 5227 3"},
	{Number: 74, Section: "K", Title: "IGMP and MLD: queriers, reports, floods", Source: "RFC 3810 5; RFC 3376 4",
		Departs: "Reports to groups are neither counted nor limited: every host sends them, and nothing is done about them"},
	{Number: 75, Section: "K", Title: "other MTUs while packets flow", Source: "RFC 8200 5"},
	{Number: 76, Section: "K", Title: "services on the router's own addresses", Source: "RFC 6192 3"},

	{Number: 77, Section: "L", Title: "kill, crash, a second start, a start before its links", Source: "CVE-2015-5240"},
	{Number: 78, Section: "L", Title: "reloads under traffic, and bad ones", Source: "CVE-2015-5240"},
	{Number: 79, Section: "L", Title: "a process that is stopped, starved or stuck", Source: "systemd.service(5)"},
	{Number: 80, Section: "L", Title: "configurations that contradict themselves, floods of drops, any frame at all", Source: "RFC 4732 2"},
}

var caseWord = regexp.MustCompile(`\bcases? ([0-9]+)\b`)

// Attack is the number of the attack that a row is about, 0 for none.
func (c Case) Attack() int {
	m := caseWord.FindStringSubmatch(c.Ref)
	if m == nil {
		return 0
	}
	n, _ := strconv.Atoi(m[1]) // digits
	return n
}
