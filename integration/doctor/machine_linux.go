package doctor

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"udrouter/config"
	"udrouter/integration/dom0"
)

// machine is what was read. Checks look at nothing else.
type machine struct {
	Options
	file     os.FileInfo // of the configuration; nil: none
	fileUID  uint32
	release  string   // of the kernel
	missing  []string // kernel modules that cannot be used
	links    []netlink.Link
	addrs    []netlink.Addr
	routes   []netlink.Route // of the main table
	proxies  []netlink.Neigh
	fdb      []netlink.Neigh
	daemons  []process
	chains   []filterChain
	running  *dom0.HeldError
	left     []string
	guarded  bool // there are nftables tables of a udrouter's
	lro      bool
	settings map[string]string // sysctls that were asked for; without those that there are not
}

// process is one of this network namespace.
type process struct {
	pid  int
	name string
}

// filterChain is a base chain of nftables that is not udrouter's.
type filterChain struct {
	family nftables.TableFamily
	table  string
	name   string
	hook   uint32
	drops  bool // by a rule, in it or in a chain of its table, or by its policy
}

// readMachine reads as much as it can.
func readMachine(o Options) (*machine, error) {
	m := &machine{Options: o, settings: map[string]string{}}
	var errs []error
	for _, step := range []struct {
		what string
		read func() error
	}{
		{"the configuration's mode", m.readFile},
		{"the state directory", m.readState},
		{"the kernel's version", m.readKernel},
		{"interfaces", m.readLinks},
		{"addresses", func() (err error) { m.addrs, err = netlink.AddrList(nil, netlink.FAMILY_ALL); return err }},
		{"routes", m.readRoutes},
		{"neighbours", m.readNeighbours},
		{"processes", m.readProcesses},
		{"nftables", m.readFilters},
	} {
		if err := step.read(); err != nil {
			errs = append(errs, fmt.Errorf("reading %s: %w", step.what, err))
		}
	}
	m.readSettings()
	m.readOffload()
	return m, errors.Join(errs...)
}

func (m *machine) readFile() error {
	if m.ConfigFile == "" {
		return nil
	}
	fi, err := os.Stat(m.ConfigFile)
	if err != nil {
		return err
	}
	m.file = fi
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		m.fileUID = st.Uid
	}
	return nil
}

func (m *machine) readState() (err error) {
	m.running, m.left, err = dom0.Look(m.StateDir)
	return err
}

func (m *machine) readKernel() error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	m.release = unix.ByteSliceToString(u.Release[:])
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		m.missing = append(m.missing, "tun")
	}
	return nil
}

func (m *machine) readLinks() (err error) {
	m.links, err = netlink.LinkList()
	return err
}

func (m *machine) readRoutes() error {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return err
		}
		m.routes = append(m.routes, list...)
	}
	return nil
}

func (m *machine) readNeighbours() error {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := netlink.NeighProxyList(0, family)
		if err != nil {
			return err
		}
		m.proxies = append(m.proxies, list...)
	}
	var err error
	m.fdb, err = netlink.NeighList(0, unix.AF_BRIDGE)
	return err
}

// daemonNames are programs that answer or advertise in the router's place.
var daemonNames = []string{"ndppd", "npd6", "ndproxy", "ndprbrd", "pndpd", "radvd", "odhcpd", "parprouted", "6relayd"}

// readProcesses looks for them among the processes of this network namespace.
func (m *machine) readProcesses() error {
	here, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		comm, err := os.ReadFile(filepath.Join(dir, "comm"))
		if err != nil {
			continue // it has ended
		}
		name := strings.TrimSpace(string(comm))
		for _, d := range daemonNames {
			if ns, err := os.Readlink(filepath.Join(dir, "ns/net")); name == d && err == nil && ns == here {
				pid, _ := strconv.Atoi(filepath.Base(dir))
				m.daemons = append(m.daemons, process{pid, name})
			}
		}
	}
	return nil
}

func (m *machine) readFilters() error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	chains, err := conn.ListChains()
	if err != nil {
		if errors.Is(err, unix.EPERM) {
			return fmt.Errorf("%w: be root", err)
		}
		m.missing = append(m.missing, "nf_tables")
		return nil
	}
	type table struct {
		family nftables.TableFamily
		name   string
	}
	drops := map[table]map[string]bool{} // by chain
	for _, c := range chains {
		if c.Table.Name == dom0.TableName {
			m.guarded = true
			continue
		}
		rules, err := conn.GetRules(c.Table, c)
		if err != nil {
			return err
		}
		t := table{c.Table.Family, c.Table.Name}
		if drops[t] == nil {
			drops[t] = map[string]bool{}
		}
		for _, r := range rules {
			for _, e := range r.Exprs {
				if refuses(e) {
					drops[t][c.Name] = true
				}
			}
		}
	}
	for _, c := range chains {
		if c.Table.Name == dom0.TableName || c.Hooknum == nil {
			continue
		}
		f := filterChain{family: c.Table.Family, table: c.Table.Name, name: c.Name, hook: uint32(*c.Hooknum)}
		f.drops = c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop || drops[table{f.family, f.table}][c.Name]
		m.chains = append(m.chains, f)
	}
	return nil
}

// refuses tells whether an expression of a rule ends packets.
func refuses(e expr.Any) bool {
	switch e := e.(type) {
	case *expr.Verdict:
		return e.Kind == expr.VerdictDrop
	case *expr.Reject:
		return true
	case *expr.Target:
		return e.Name == "REJECT" || e.Name == "DROP"
	}
	return false
}

// readSettings reads the sysctls that checks ask for.
func (m *machine) readSettings() {
	keys := []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding", "net.ipv4.conf.all.proxy_arp", "net.ipv6.conf.all.proxy_ndp",
		"net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables", "net.bridge.bridge-nf-call-arptables",
		"net.netfilter.nf_conntrack_count", "net.netfilter.nf_conntrack_max"}
	for _, l := range m.links {
		name := settingName(l.Attrs().Name)
		keys = append(keys, "net.ipv4.conf."+name+".proxy_arp", "net.ipv6.conf."+name+".proxy_ndp", "net.ipv6.conf."+name+".disable_ipv6")
	}
	path := strings.NewReplacer(".", "/", "/", ".")
	for _, k := range keys {
		if b, err := os.ReadFile("/proc/sys/" + path.Replace(k)); err == nil {
			m.settings[k] = strings.TrimSpace(string(b))
		}
	}
}

// settingName is an interface's name in a sysctl's: a dot of it is a slash there.
func settingName(link string) string { return strings.ReplaceAll(link, ".", "/") }

// on tells whether a setting is there and not 0.
func (m *machine) on(key string) bool { v, ok := m.settings[key]; return ok && v != "0" }

const (
	ethtoolGetFlags = 0x25    // linux/ethtool.h ETHTOOL_GFLAGS
	ethtoolLRO      = 1 << 15 // ETH_FLAG_LRO
)

func (m *machine) readOffload() {
	if m.Config == nil {
		return
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	value := [2]uint32{ethtoolGetFlags}
	var req struct { // struct ifreq
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(req.name[:unix.IFNAMSIZ-1], m.Config.Uplink.Name)
	req.data = unsafe.Pointer(&value)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req))); errno == 0 {
		m.lro = value[1]&ethtoolLRO != 0
	}
}

// link is the interface of a name, or nil.
func (m *machine) link(name string) netlink.Link {
	for _, l := range m.links {
		if l.Attrs().Name == name {
			return l
		}
	}
	return nil
}

func (m *machine) nameOf(index int) string {
	for _, l := range m.links {
		if l.Attrs().Index == index {
			return l.Attrs().Name
		}
	}
	return ""
}

// networkOf is the network of guests that shares addresses with a prefix.
func (m *machine) networkOf(p netip.Prefix) *config.Network {
	if m.Config == nil {
		return nil
	}
	for i := range m.Config.Networks {
		if m.Config.Networks[i].Prefix.Overlaps(p) {
			return &m.Config.Networks[i]
		}
	}
	return nil
}

// bound is the guest that has an address.
func (m *machine) bound(a netip.Addr) *config.Domu {
	if m.Config == nil {
		return nil
	}
	for i := range m.Config.Domus {
		d := &m.Config.Domus[i]
		for _, p := range append(append([]netip.Prefix(nil), d.IPv4...), d.IPv6...) {
			if p.Contains(a) && !a.IsLinkLocalUnicast() {
				return d
			}
		}
	}
	return nil
}

// prefixOf is a prefix of netlink's, not masked.
func prefixOf(ip []byte, ones int) (netip.Prefix, bool) {
	a, ok := netip.AddrFromSlice(ip)
	if a.Is4In6() {
		a = a.Unmap()
	}
	return netip.PrefixFrom(a, ones), ok
}

// flag is ip's word for a family other than IPv4.
func flag(a netip.Addr) string {
	if a.Is6() {
		return "-6 "
	}
	return ""
}
