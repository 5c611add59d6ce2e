package integration

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"udrouter/integration/lab"
	"udrouter/integration/wire"
	"udrouter/integration/xen/xentest"
)

// store stands in for xenstore.
type store struct {
	t   *testing.T
	dir string // keys
	bin string // programs
}

func newStore(t *testing.T) *store {
	s := &store{t, filepath.Join(t.TempDir(), "xenstore"), t.TempDir()}
	must(t, xentest.WriteTools(s.bin))
	return s
}

func (s *store) set(pairs ...string) {
	s.t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		path := filepath.Join(s.dir, pairs[i])
		must(s.t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(s.t, os.WriteFile(path, []byte(pairs[i+1]), 0o644))
	}
}

func (s *store) get(key string) string {
	b, err := os.ReadFile(filepath.Join(s.dir, key))
	if err != nil {
		return ""
	}
	return string(b)
}

func (s *store) wants(when string, pairs ...string) {
	s.t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if got := s.get(pairs[i]); !strings.Contains(got, pairs[i+1]) || pairs[i+1] == "" && got != "" {
			s.t.Errorf("%s: %s is %q, want %q", when, pairs[i], got, pairs[i+1])
		}
	}
}

// backend is where the store has the dom0 side of a domain's interface.
func backend(domid, device int) string {
	return fmt.Sprintf("/local/domain/0/backend/vif/%d/%d", domid, device)
}

// domain writes what the toolstack does before it calls the script. The UUID goes by the name, unless the pairs have one as "vm".
func (s *store) domain(domid int, name string, device int, pairs ...string) {
	s.t.Helper()
	b := backend(domid, device)
	front := fmt.Sprintf("/local/domain/%d/device/vif/%d", domid, device)
	home := fmt.Sprintf("/local/domain/%d/", domid)
	s.set(home+"name", name, home+"vm", "/vm/"+strings.TrimSuffix(name, "--incoming"), b+"/frontend-id", fmt.Sprint(domid), b+"/frontend", front, b+"/bridge", "xenbr0", b+"/script", "vif-udrouter")
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i] == "vm" {
			s.set(home+"vm", pairs[i+1])
			continue
		}
		s.set(b+"/"+pairs[i], pairs[i+1])
	}
}

// run calls a script in dom0, by the shell that it names, as a toolstack does.
func (p *plugged) run(wantStatus int, stdin, script string, env []string, args ...string) string {
	p.t.Helper()
	path, err := filepath.Abs(script)
	must(p.t, err)
	socket := filepath.Join(p.state, "nobody.sock")
	if p.proc != nil {
		socket = p.proc.Socket
	}
	cmd := p.Dom0.Command(testContext(p.t), path, args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "UDROUTER=" + wire.Exe, "UDROUTER_DEFAULTS=/dev/null", "UDROUTER_VIF_FLAGS=--state " + p.state + " --socket " + socket}, env...)
	cmd.Stdin = strings.NewReader(stdin)
	return ended(p.t, cmd, wantStatus)
}

// xen calls the hotplug script for a vif.
func (p *plugged) xen(s *store, wantStatus, domid, device int, command string) string {
	p.t.Helper()
	return p.run(wantStatus, "", "xen/vif-udrouter", []string{"PATH=" + s.bin + ":" + os.Getenv("PATH"), "XENSTORE=" + s.dir, "XENBUS_PATH=" + backend(domid, device),
		"XENBUS_TYPE=vif", fmt.Sprintf("vif=vif%d.%d", domid, device)}, command, "type_if=vif")
}

// xenTAP does for the TAP of an emulated card.
func (p *plugged) xenTAP(s *store, domid, device int, command string) string {
	p.t.Helper()
	return p.run(0, "", "xen/vif-udrouter", []string{"PATH=" + s.bin + ":" + os.Getenv("PATH"), "XENSTORE=" + s.dir, fmt.Sprintf("INTERFACE=vif%d.%d-emu", domid, device)}, command, "type_if=tap")
}

// The script of Xen's toolstack: a domain starts, starts anew, and ends; it is refused; a vif has a name of its own.
func TestXenScript(t *testing.T) {
	p := plugLab(t)
	p.start()
	s := newStore(t)
	one := p.guest("vif7.0", "00:16:3e:00:00:77", "192.0.2.77", "2001:db8:3:2:1::77")
	s.domain(7, "web-1", 0, "mac", "00:16:3e:00:00:77", "ip", "192.0.2.77 2001:db8:3:2:1::77", "mtu", "1400")
	must(t, one.SetMTU(one.Link, 1400))
	for range 2 {
		p.xen(s, 0, 7, 0, "online")
		s.wants("online", backend(7, 0)+"/hotplug-status", "connected", backend(7, 0)+"/hotplug-error", "", "/local/domain/7/device/vif/0/mtu", "1400")
	}
	p.wantBound("online", "vif7.0=web-1")
	ping(t, one, p.Internet.Addr4())
	ping(t, one, p.Internet.Addr6())

	// It migrates to here, or starts anew: the next number comes before the last one is gone.
	again := p.guest("vif8.0", "00:16:3e:00:00:77", "192.0.2.77", "2001:db8:3:2:1::77")
	s.domain(8, "web-1--incoming", 0, "mac", "00:16:3e:00:00:77", "ip", "192.0.2.77,2001:db8:3:2:1::77")
	p.xen(s, 0, 8, 0, "online")
	p.wantBound("the next number", "vif8.0=web-1")
	p.xen(s, 0, 7, 0, "offline")
	p.wantBound("the last one's end", "vif8.0=web-1")
	ping(t, again, p.Internet.Addr4())
	ping(t, again, p.Internet.Addr6())

	// A second interface of the domain, with a name of its own.
	second := p.guest("vif8.1", "00:16:3e:00:00:78", "192.0.2.78")
	s.domain(8, "web-1", 1, "mac", "00:16:3e:00:00:78", "ip", "192.0.2.78", "vifname", "web-1-second")
	for range 2 {
		p.xen(s, 0, 8, 1, "online")
		p.wantBound("attached", "vif8.0=web-1", "web-1-second=web-1.1")
	}
	ping(t, second, p.Internet.Addr4())
	p.xen(s, 0, 8, 1, "offline")
	p.wantBound("detached", "vif8.0=web-1")

	// Refused: the toolstack is told, and the domain is not created.
	p.guest("vif9.0", "00:16:3e:00:00:79", "192.0.2.79")
	s.domain(9, "db", 0, "mac", "00:16:3e:00:00:79", "ip", "192.0.2.79")
	contains(t, p.xen(s, 1, 9, 0, "online"), "vif-udrouter: ", "none with match is for domain")
	s.wants("refused", backend(9, 0)+"/hotplug-status", "error", backend(9, 0)+"/hotplug-error", `none with match is for domain "db"`)
	for key, says := range map[string]string{"mac": "/mac is not in xenstore", "bridge": "no bridge for vif9.0"} {
		s.set(backend(9, 0)+"/"+key, "")
		contains(t, p.xen(s, 1, 9, 0, "online"), says)
		s.domain(9, "db", 0, "mac", "00:16:3e:00:00:79")
	}
	contains(t, p.xen(s, 1, 9, 0, "suspend"), "called with 'suspend type_if=vif'")
	p.xen(s, 0, 9, 0, "add") // udev's, which is not for vifs
	p.wantBound("at the end", "vif8.0=web-1")
}

// A domain is not another's because it is called so, or so that its name is another's while that migrates: it neither replaces its port nor gets its address.
// Who has the UUID does.
func TestXenNameIsNoIdentity(t *testing.T) {
	p := plugLab(t)
	p.start()
	s := newStore(t)
	victim := p.guest("vif7.0", "00:16:3e:00:00:77", "192.0.2.77")
	s.domain(7, "web-1", 0, "vm", "/vm/1111", "mac", "00:16:3e:00:00:77", "ip", "192.0.2.77")
	p.xen(s, 0, 7, 0, "online")
	p.guest("vif9.0", "00:16:3e:00:00:99", "192.0.2.77")
	s.domain(9, "web-1--incoming", 0, "vm", "/vm/2222", "mac", "00:16:3e:00:00:99", "ip", "192.0.2.77")
	contains(t, p.xen(s, 1, 9, 0, "online"), "Name used twice", "Address used twice")
	p.wantBound("another domain of the name", "vif7.0=web-1")
	ping(t, victim, p.Internet.Addr4())
	// By a block of the file it is bound, as itself.
	p.guest("vif10.0", "00:16:3e:00:00:03", "192.0.2.12")
	s.domain(10, "web-1--incoming", 0, "vm", "/vm/3333", "mac", "00:16:3e:00:00:03")
	p.xen(s, 0, 10, 0, "online")
	p.wantBound("another domain of the name that the file has", "vif10.0=waits", "vif7.0=web-1")
	ping(t, victim, p.Internet.Addr4())
	again := p.guest("vif11.0", "00:16:3e:00:00:77", "192.0.2.77")
	s.domain(11, "web-1--incoming", 0, "vm", "/vm/1111", "mac", "00:16:3e:00:00:77", "ip", "192.0.2.77")
	p.xen(s, 0, 11, 0, "online")
	p.wantBound("migrated", "vif10.0=waits", "vif11.0=web-1")
	ping(t, again, p.Internet.Addr4())
	s.set("/local/domain/11/vm", "")
	contains(t, p.xen(s, 1, 11, 0, "online"), "/local/domain/11/vm is not in xenstore")
}

// Without a router the domain starts, and its port is locked until there is one.
func TestXenScriptWithoutRouter(t *testing.T) {
	p := plugLab(t)
	s := newStore(t)
	one := p.guest("vif7.0", "00:16:3e:00:00:03", "192.0.2.12")
	s.domain(7, "waits", 0, "mac", "00:16:3e:00:00:03")
	contains(t, p.xen(s, 0, 7, 0, "online"), "No router runs")
	s.wants("online", backend(7, 0)+"/hotplug-status", "connected")
	p.start()
	p.wantBound("at the start", "vif7.0=waits")
	ping(t, one, p.Internet.Addr4())
}

// A domain with an emulated card has that one's TAP as its port, until its drivers have done away with it.
func TestXenEmulatedCard(t *testing.T) {
	p := plugLab(t)
	p.start()
	s := newStore(t)
	g := p.guest("vif7.0", "00:16:3e:00:00:77", "192.0.2.77")
	s.domain(7, "web-1", 0, "mac", "00:16:3e:00:00:77", "ip", "192.0.2.77")
	p.xen(s, 0, 7, 0, "online")
	p.wantBound("before the card", "vif7.0=web-1")
	emu := p.guest("vif7.0-emu", "00:16:3e:00:00:77", "192.0.2.77")
	p.xenTAP(s, 7, 0, "add")
	p.wantBound("with the card", "vif7.0-emu=web-1")
	contains(t, p.vif(0, "list"), "waiting")
	ping(t, emu, p.Internet.Addr4())
	p.silent("behind the card", g)
	p.xen(s, 0, 7, 0, "online")
	p.wantBound("online once more", "vif7.0-emu=web-1")
	must(t, p.Dom0.DelLink("vif7.0-emu"))
	must(t, lab.Await(testContext(t), "the vif in the card's place", func() (bool, error) { return strings.Join(p.bound(), " ") == "vif7.0=web-1", nil }))
	reaches(t, g, p.Internet.Addr4())
	p.xenTAP(s, 7, 0, "remove")
	p.wantBound("after the card", "vif7.0=web-1")
	contains(t, p.run(1, "", "xen/vif-udrouter", []string{"INTERFACE=tap0"}, "add", "type_if=tap"), "not the name of an emulated card's TAP")
}

const libvirtXML = `<domain type='kvm' id='3'>
  <name>web-kvm</name>
  <uuid>c7a5fdbd-edaf-9455-926a-d65c16db1809</uuid>
  <metadata>
    <udrouter:guest xmlns:udrouter="urn:udrouter">
      <udrouter:ip mac="52:54:00:00:00:01">192.0.2.77 2001:db8:3:2:1::77</udrouter:ip>
      <udrouter:ip mac='52:54:00:00:00:03'>192.0.2.79</udrouter:ip>
    </udrouter:guest>
  </metadata>
  <devices>
    <interface type='bridge'>
      <mac address='52:54:00:00:00:01'/>
      <source bridge='xenbr0'/>
      <target dev='vnet0'/>
      <model type='virtio'/>
    </interface>
    <interface type='network'>
      <mac address='52:54:00:00:00:02'/>
      <source network='default' bridge='virbr0'/>
      <target dev='vnet1'/>
    </interface>
    <interface type='bridge'>
      <mac address='52:54:00:00:00:03'/>
      <source bridge='xenbr0'/>
      <target dev='vnet2'/>
    </interface>
  </devices>
</domain>
`

// The hook of libvirt names the interfaces on bridges, of which it has made ports already.
func TestLibvirtHook(t *testing.T) {
	p := plugLab(t)
	p.start()
	g := p.kvm("vnet0", "52:54:00:00:00:01", "192.0.2.77", "2001:db8:3:2:1::77")
	p.kvm("vnet2", "52:54:00:00:00:03", "192.0.2.79")
	hook := func(status int, xml string, args ...string) string {
		t.Helper()
		return p.run(status, xml, "libvirt/qemu", nil, append([]string{"web-kvm"}, args...)...)
	}
	hook(0, libvirtXML, "prepare", "begin", "-")
	p.wantBound("prepared")
	hook(0, libvirtXML, "started", "begin", "-")
	p.wantBound("started", "vnet0=web-kvm", "vnet2=web-kvm.2")
	ping(t, g, p.Internet.Addr4())
	ping(t, g, p.Internet.Addr6())
	hook(0, libvirtXML, "stopped", "end", "-")
	p.wantBound("stopped")
	contains(t, hook(1, strings.ReplaceAll(libvirtXML, "192.0.2.79", "192.0.2.1"), "started", "begin", "-"), "the gateway of network")
}

// What libvirt's hook passes over it names, with the reason. A network of libvirt is the router's where its bridge is, and it is told which that is.
func TestLibvirtPassedOver(t *testing.T) {
	p := plugLab(t)
	p.start()
	p.kvm("vnet0", "52:54:00:00:00:01", "192.0.2.77")
	p.kvm("vnet1", "52:54:00:00:00:02", "192.0.2.78")
	p.kvm("vnet2", "52:54:00:00:00:03", "192.0.2.79")
	const vdpa = "    <interface type='direct'>\n      <mac address='52:54:00:00:00:04'/>\n      <source dev='eth0' mode='bridge'/>\n      <target dev='macvtap0'/>\n    </interface>\n  </devices>"
	xml := strings.Replace(libvirtXML, "  </devices>", vdpa, 1)
	ours := strings.Replace(xml, "bridge='virbr0'", "portid='4f2a' bridge='xenbr0'", 1)
	for _, c := range []struct {
		name, xml, bridge string
		bound, says       []string
	}{
		{"no bridge is named", xml, "", []string{"vnet0=web-kvm", "vnet2=web-kvm.2"},
			[]string{"interface 1 (52:54:00:00:00:02, vnet1)", "bridge virbr0, not on xenbr0", "interface 3 (52:54:00:00:00:04, macvtap0)", "its type is direct"}},
		{"the bridge is named, and the network is on another", xml, "xenbr0", []string{"vnet0=web-kvm", "vnet2=web-kvm.2"}, []string{"interface 1 ", "bridge virbr0, not on xenbr0"}},
		{"no bridge is named, and the network is on the router's", ours, "", []string{"vnet0=web-kvm", "vnet1=web-kvm.1", "vnet2=web-kvm.2"}, []string{"its type is direct"}},
		{"the network is on it", ours, "xenbr0", []string{"vnet0=web-kvm", "vnet1=web-kvm.1", "vnet2=web-kvm.2"}, []string{"its type is direct"}},
		{"all are on another", xml, "br9", nil, []string{"interface 0 ", "interface 1 ", "interface 2 ", "bridge xenbr0, not on br9"}},
	} {
		hook := func(args ...string) string {
			t.Helper()
			return p.run(0, c.xml, "libvirt/qemu", []string{"UDROUTER_BRIDGE=" + c.bridge}, append([]string{"web-kvm"}, args...)...)
		}
		contains(t, hook("started", "begin", "-"), c.says...)
		p.wantBound(c.name, c.bound...)
		hook("stopped", "end", "-")
		p.wantBound(c.name + ", stopped")
	}
}

// Ports of other bridges are nobody's business: they stay open, and the domain starts.
func TestOtherBridgesAreLeftAlone(t *testing.T) {
	p := plugLab(t)
	p.start()
	h, err := p.Dom0.Handle()
	must(t, err)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "br9"
	must(t, h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
	br, err := h.LinkByName("br9")
	must(t, err)
	ports := map[string]netlink.Link{}
	for _, vif := range []string{"vnet0", "tap100i0"} {
		p.guest(vif, "52:54:00:00:00:01")
		ports[vif], err = h.LinkByName(vif)
		must(t, err)
		must(t, h.LinkSetMaster(ports[vif], br))
	}
	xml := strings.ReplaceAll(strings.ReplaceAll(libvirtXML, "bridge='xenbr0'", "bridge='br9'"), "bridge='virbr0'", "bridge='br9'")
	contains(t, p.run(0, xml, "libvirt/qemu", nil, "web-kvm", "started", "begin", "-"), "interface 0 ", "bridge br9, not on xenbr0")
	bin := t.TempDir()
	must(t, os.WriteFile(filepath.Join(bin, "qm"), []byte("#!/bin/sh\ncat <<'END'\nname: a\nnet0: virtio=52:54:00:00:00:01,bridge=br9\nEND\n"), 0o755))
	contains(t, p.run(0, "", "proxmox/udrouter.sh", []string{"PATH=" + bin + ":" + os.Getenv("PATH")}, "100", "post-start"), "net0 of VM 100", "bridge br9, not on xenbr0")
	contains(t, p.vif(1, "add", "--vif", "vnet0", "--mac", "52:54:00:00:00:01", "--domain", "web-1"), "vnet0 is in another bridge than xenbr0")
	p.wantBound("ports of another bridge")
	for vif, link := range ports {
		protinfo, err := h.LinkGetProtinfo(link)
		if must(t, err); protinfo.Isolated || !protinfo.Learning {
			t.Errorf("%s is locked: %+v", vif, protinfo)
		}
	}
	must(t, p.proc.Stop())
	p.proc = nil
	none := filepath.Join(t.TempDir(), "router.hcl")
	contains(t, p.vif(1, "bridge", "-c", none), "no router runs", "UDROUTER_BRIDGE")
	path, err := p.ConfigPath()
	must(t, err)
	contains(t, p.vif(0, "bridge", "-c", path), "xenbr0")
}

// kvm makes a guest whose port is in the bridge and up already.
func (p *plugged) kvm(vif, mac string, addrs ...string) *lab.Node {
	p.t.Helper()
	g := p.guest(vif, mac, addrs...)
	h, err := p.Dom0.Handle()
	must(p.t, err)
	link, err := h.LinkByName(vif)
	must(p.t, err)
	br, err := h.LinkByName("xenbr0")
	must(p.t, err)
	must(p.t, errors.Join(h.LinkSetMaster(link, br), h.LinkSetUp(link)))
	return g
}

const proxmoxConfig = `agent: 1
boot: order=scsi0
ipconfig0: ip=192.0.2.77/24,gw=192.0.2.1,ip6=2001:db8:3:2:1::77/64,gw6=2001:db8:3:2:1::1
ipconfig2: ip=dhcp
memory: 2048
name: web-pve
net0: virtio=BC:24:11:00:00:01,bridge=xenbr0
net2: virtio=BC:24:11:00:00:03,bridge=xenbr0,firewall=1
scsi0: local-lvm:vm-100-disk-0,size=8G
`

// The hookscript of Proxmox names the ports of a VM's interfaces, which are others where its firewall is on.
func TestProxmoxHookscript(t *testing.T) {
	p := plugLab(t)
	p.start()
	bin := t.TempDir()
	must(t, os.WriteFile(filepath.Join(bin, "qm"), []byte("#!/bin/sh\n[ \"$1 $2\" = \"config 100\" ] && cat <<'END'\n"+proxmoxConfig+"END\n"), 0o755))
	g := p.kvm("tap100i0", "bc:24:11:00:00:01", "192.0.2.77", "2001:db8:3:2:1::77")
	p.kvm("fwpr100p2", "bc:24:11:00:00:03", "192.0.2.79")
	hook := func(phase string) {
		t.Helper()
		p.run(0, "", "proxmox/udrouter.sh", []string{"PATH=" + bin + ":" + os.Getenv("PATH")}, "100", phase)
	}
	hook("pre-start")
	p.wantBound("before")
	hook("post-start")
	p.wantBound("started", "fwpr100p2=web-pve.2", "tap100i0=web-pve")
	ping(t, g, p.Internet.Addr4())
	ping(t, g, p.Internet.Addr6())
	hook("post-stop")
	p.wantBound("stopped")
}

// Proxmox lets two VMs have one name. The second one is refused, and the first one goes on.
func TestProxmoxNameUsedTwice(t *testing.T) {
	p := plugLab(t)
	p.start()
	bin := t.TempDir()
	const config = "name: web-pve\nnet0: virtio=%s,bridge=xenbr0\nipconfig0: ip=192.0.2.77/24\n"
	hook := func(status int, id, mac string) string {
		t.Helper()
		must(t, os.WriteFile(filepath.Join(bin, "qm"), fmt.Appendf(nil, "#!/bin/sh\ncat <<'END'\n"+config+"END\n", mac), 0o755))
		return p.run(status, "", "proxmox/udrouter.sh", []string{"PATH=" + bin + ":" + os.Getenv("PATH")}, id, "post-start")
	}
	first := p.kvm("tap100i0", "bc:24:11:00:00:01", "192.0.2.77")
	hook(0, "100", "BC:24:11:00:00:01")
	p.kvm("tap200i0", "bc:24:11:00:00:02", "192.0.2.77")
	contains(t, hook(1, "200", "BC:24:11:00:00:02"), "Name used twice")
	p.wantBound("two of one name", "tap100i0=web-pve")
	ping(t, first, p.Internet.Addr4())
}

// Whoever owns a guest may have a say in its name, its MAC, its addresses and what is written about it. None of that is a command, an option, a line
// of another program's, or another guest's interface.
func TestScriptsOfHostileGuests(t *testing.T) {
	p := plugLab(t)
	p.start()
	s := newStore(t)
	p.guest("vif7.0", "00:16:3e:00:00:77", "192.0.2.77")
	touched := filepath.Join(t.TempDir(), "touched")
	hostile := []string{"$(touch " + touched + ")", "`touch " + touched + "`", "'; touch " + touched + "; '", "\"; touch " + touched + "; \"", "--help", "-h", "--socket=/nowhere",
		"a\n--domain=web-1", "* ?", "\\033[31mred\\c", "%s%n", "\x1b[2J"}
	for _, text := range hostile {
		for _, key := range []string{"name", "mac", "ip", "bridge", "mtu", "vifname", "frontend-id"} {
			if key == "vifname" && strings.HasPrefix(text, "\\") {
				continue // strange, but a name for an interface
			}
			s.domain(7, "web-1", 0, "mac", "00:16:3e:00:00:77", "ip", "192.0.2.77", "mtu", "1500", "vifname", "", "hotplug-status", "")
			if key == "name" {
				s.set("/local/domain/7/name", text)
			} else {
				s.set(backend(7, 0)+"/"+key, text)
			}
			out := p.xen(s, 1, 7, 0, "online")
			s.wants(fmt.Sprintf("%s is %q", key, text), backend(7, 0)+"/hotplug-status", "error")
			if said := key == "name" || key == "mac" || key == "ip"; strings.Contains(out, "Usage") || said && strings.Contains(out, "\x1b") {
				t.Errorf("%s is %q: the script says %q", key, text, out)
			}
		}
	}
	p.wantBound("nothing of it")

	// A name does not matter where the file has the MAC; the list of ports has a line for each nevertheless.
	p.guest("vif9.0", "00:16:3e:00:00:03", "192.0.2.12")
	s.domain(9, "x\nvif1.0  \x1b[31m", 0, "mac", "00:16:3e:00:00:03")
	p.xen(s, 0, 9, 0, "online")
	p.wantBound("by its MAC", "vif9.0=waits")
	if list := p.vif(0, "list"); strings.Contains(list, "\nvif1.0") || strings.Contains(list, "\x1b") {
		t.Errorf("the list has what a domain's name says:\n%q", list)
	}
	p.xen(s, 0, 9, 0, "offline")

	// libvirt and Proxmox.
	p.kvm("vnet0", "52:54:00:00:00:01", "192.0.2.77")
	p.kvm("vnet2", "52:54:00:00:00:03", "192.0.2.79")
	p.kvm("vnet9", "52:54:00:00:00:09", "192.0.2.80")
	other := strings.NewReplacer("vnet0", "vnet9", "52:54:00:00:00:01", "52:54:00:00:00:09").Replace(libvirtXML[strings.Index(libvirtXML, "    <interface"):strings.Index(libvirtXML, "    <interface type='network'")])
	p.run(0, strings.Replace(libvirtXML, "  </metadata>", other+"  </metadata>", 1), "libvirt/qemu", nil, "web-kvm", "started", "begin", "-")
	p.wantBound("an interface in the metadata", "vnet0=web-kvm", "vnet2=web-kvm.2")
	p.run(0, libvirtXML, "libvirt/qemu", nil, "web-kvm", "stopped", "end", "-")
	for _, around := range [][2]string{{"<![CDATA[", "]]>"}, {"<!-- ", " -->"}, {"<?p ", "?>"}, {"<metadata>", "</metadata>"}} {
		text := "\n</metadata>\n" + other + "<metadata>\n"
		p.run(0, strings.Replace(libvirtXML, "  </metadata>", "<x>"+around[0]+text+around[1]+"</x>  </metadata>", 1), "libvirt/qemu", nil, "web-kvm", "started", "begin", "-")
		p.wantBound("an interface in the metadata's "+around[0], "vnet0=web-kvm", "vnet2=web-kvm.2")
		p.run(0, libvirtXML, "libvirt/qemu", nil, "web-kvm", "stopped", "end", "-")
	}
	for _, text := range hostile {
		p.run(1, libvirtXML, "libvirt/qemu", nil, text, "started", "begin", "-")
	}
	p.wantBound("names")
	bin := t.TempDir()
	config := filepath.Join(bin, "config")
	must(t, os.WriteFile(filepath.Join(bin, "qm"), []byte("#!/bin/sh\ncat "+config+"\n"), 0o755))
	must(t, os.WriteFile(config, []byte(proxmoxConfig+"net0: virtio=52:54:00:00:00:09,bridge=xenbr0\n"), 0o644))
	contains(t, p.run(1, "", "proxmox/udrouter.sh", []string{"PATH=" + bin + ":" + os.Getenv("PATH")}, "100", "post-start"), "net0: comes twice")
	p.wantBound("another line of a VM's")
	if _, err := os.Stat(touched); err == nil {
		t.Error("a guest has run a command")
	}
}
