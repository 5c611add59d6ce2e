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
	Departs string // what the router does differently from what one would expect, and why
}

// Sections of the attacks.
var Sections = []struct{ Letter, Title string }{
	{"A", "Bridge and dom0"}, {"B", "Ethernet"}, {"C", "IPv4 addresses"}, {"D", "IPv6 addresses"}, {"E", "ARP"}, {"F", "Neighbor Discovery"},
	{"G", "RA, redirect, DHCP"}, {"H", "Fragments, extension headers, options"}, {"I", "ICMP"}, {"J", "State and floods"},
}

// Attacks are those that one packet or a few decide, and what surrounds them.
var Attacks = []Attack{
	{Number: 1, Section: "A", Title: "past the router, through the bridge"},
	{Number: 2, Section: "A", Title: "the neighbour's or the router's MAC, or thousands of MACs"},
	{Number: 3, Section: "A", Title: "dom0's kernel, past the router"},

	{Number: 4, Section: "B", Title: "a source MAC that no guest has"},
	{Number: 5, Section: "B", Title: "a source MAC that no station has"},
	{Number: 7, Section: "B", Title: "unicast IP in a broadcast or multicast frame"},
	{Number: 8, Section: "B", Title: "frames cut off at every length, and headers that lie about theirs"},
	{Number: 9, Section: "B", Title: "802.1Q, 802.1ad and priority tags"},
	{Number: 10, Section: "B", Title: "802.3 with LLC and SNAP"},
	{Number: 13, Section: "B", Title: "frames larger than the MTU"},
	{Number: 14, Section: "B", Title: "wrong checksums"},
	{Number: 15, Section: "B", Title: "partial checksums"},

	{Number: 16, Section: "C", Title: "the neighbour's address as source"},
	{Number: 17, Section: "C", Title: "nobody's address as source"},
	{Number: 18, Section: "C", Title: "a source that no host may have, the router's, dom0's, the provider's"},
	{Number: 20, Section: "C", Title: "destinations that are never forwarded"},
	{Number: 22, Section: "C", Title: "our own addresses as a source on the uplink"},
	{Number: 23, Section: "C", Title: "sources on the uplink that no host may have"},
	{Number: 24, Section: "C", Title: "guest to guest, without redirects"},
	{Number: 25, Section: "C", Title: "every IP protocol, and tunnels"},

	{Number: 26, Section: "D", Title: "the neighbour's or nobody's address as source"},
	{Number: 27, Section: "D", Title: "a source that no host may have"},
	{Number: 28, Section: "D", Title: "link-local addresses beyond the link, and those of others"},
	{Number: 30, Section: "D", Title: "our own addresses as a source on the uplink"},

	{Number: 31, Section: "E", Title: "proxy ARP toward guests"},
	{Number: 32, Section: "E", Title: "proxy ARP toward the uplink"},
	{Number: 33, Section: "E", Title: "ARP with a sender that is not its own"},
	{Number: 34, Section: "E", Title: "gratuitous ARP",
		Departs: "No claim is defended against (RFC 5227 2.4): a guest's is heard by nobody but the router, and on the uplink the owner's answers go on"},
	{Number: 35, Section: "E", Title: "ARP probes"},
	{Number: 37, Section: "E", Title: "ARP floods"},

	{Number: 38, Section: "F", Title: "ND that has crossed a router"},
	{Number: 39, Section: "F", Title: "ND with a wrong code, length or checksum"},
	{Number: 40, Section: "F", Title: "ND options: of length 0, cut off, twice, unknown"},
	{Number: 42, Section: "F", Title: "proxy NDP toward the uplink",
		Departs: "Answers are not delayed (RFC 4861 7.2.8): nobody but the router answers for a guest"},
	{Number: 43, Section: "F", Title: "proxy NDP toward guests"},
	{Number: 44, Section: "F", Title: "to claim whatever address another tests (DAD)"},
	{Number: 45, Section: "F", Title: "NA for an address that is not its own"},
	{Number: 47, Section: "F", Title: "ND in fragments"},
	{Number: 48, Section: "F", Title: "ND behind extension headers"},
	{Number: 49, Section: "F", Title: "NS floods"},
	{Number: 50, Section: "F", Title: "scans of a whole prefix"},

	{Number: 51, Section: "G", Title: "router advertisements of a guest"},
	{Number: 52, Section: "G", Title: "the same, hidden in headers, fragments and tags"},
	{Number: 54, Section: "G", Title: "router solicitations",
		Departs: "They are not answered: the router does not advertise itself yet"},
	{Number: 55, Section: "G", Title: "redirects"},
	{Number: 56, Section: "G", Title: "DHCP servers, and clients that ask everyone",
		Departs: "No client may ask everyone, since the router gives no leases yet; one that renews with a server that it knows may, for its own MAC and not as a relay"},

	{Number: 58, Section: "H", Title: "tiny fragments"},
	{Number: 59, Section: "H", Title: "overlapping fragments"},
	{Number: 60, Section: "H", Title: "TTL and hop limit used up"},
	{Number: 61, Section: "H", Title: "fragments without end, too far, out of order"},
	{Number: 63, Section: "H", Title: "to use up the ICMP errors of others"},
	{Number: 64, Section: "H", Title: "routing headers"},
	{Number: 65, Section: "H", Title: "hop-by-hop and destination options, long chains"},

	{Number: 67, Section: "I", Title: "path MTU discovery, and forged news of it"},
	{Number: 68, Section: "I", Title: "packets about which no error may be sent"},
	{Number: 70, Section: "I", Title: "every ICMP and ICMPv6 type"},

	{Number: 71, Section: "J", Title: "to pass without a state, or by another's",
		Departs: "A reset passes if its number lies between what its receiver has acknowledged and what its sender has sent: which of them is exact, the receiver alone knows"},
	{Number: 72, Section: "J", Title: "to use up the state of others"},
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
