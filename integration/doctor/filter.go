package doctor

import (
	"fmt"

	"github.com/google/nftables"
)

// Hooks of chains that guests' frames meet, by their numbers in linux/netfilter.h and linux/netfilter_bridge.h.
const hookForward = 2

// familyWords are those of nft(8).
var familyWords = map[nftables.TableFamily]string{nftables.TableFamilyINet: "inet", nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6",
	nftables.TableFamilyBridge: "bridge", nftables.TableFamilyNetdev: "netdev", nftables.TableFamilyARP: "arp"}

// checkFilters looks for rules of others that end guests' frames before the router has them. What they drop of dom0's own is dom0's business.
func (m *machine) checkFilters() (list []Finding) {
	shown := m.on("net.bridge.bridge-nf-call-iptables") || m.on("net.bridge.bridge-nf-call-ip6tables")
	for _, c := range m.chains {
		if !c.drops {
			continue
		}
		family := familyWords[c.family]
		remedy := fmt.Sprintf("nft delete table %s %s, or admit what guests send in it (nft list chain %s %s %s)", family, c.table, family, c.table, c.name)
		switch {
		case c.family == nftables.TableFamilyBridge:
			list = append(list, warning(remedy, "the chain %s of the nftables table %s %s drops frames in bridges: what it drops of guests the router never sees", c.name, family, c.table))
		case c.family == nftables.TableFamilyNetdev:
			list = append(list, warning(remedy, "the chain %s of the nftables table %s %s drops frames on an interface: if that is the uplink, the bridge or a vif, guests lose them", c.name, family, c.table))
		case shown && c.hook == hookForward:
			list = append(list, problem("sysctl -w net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0", "the chain %s of the table %s %s drops what is forwarded, and is asked of frames in the guests' bridge as well (br_netfilter)", c.name, family, c.table))
		}
	}
	return list
}
