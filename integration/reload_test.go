package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"udrouter/integration/lab"
	"udrouter/integration/wire"
	"udrouter/policy"
	"udrouter/router"
)

// changeable is a network with three guests, in which guests may do what they like, and whoever wants may open connections to them.
const changeable = open + guests + routed4 + `
uplink "eth0" {
  gateway4 = "192.0.1.1"
  gateway6 = "2001:db8:3:2::1"
}
network "v6" {
  prefix   = "2001:db8:3:2::/64"
  gateway  = "2001:db8:3:2:1::1"
  upstream = "proxied"
}
domu "three" {
  vif    = "vif3.0"
  mac    = "00:16:3e:00:00:03"
  ipv4   = ["192.0.2.99"]
  ipv6   = ["2001:db8:3:2:1::99"]
  policy = "open"
}
`

// reloading is a router that runs with a file which the test changes.
type reloading struct {
	t *testing.T
	l *lab.Lab
	p *lab.Proc
}

func (r reloading) write(src string) {
	r.t.Helper()
	writeFile(r.t, r.l.Dir(), "router.hcl", []byte(src), 0o644)
}

// reload writes the file and runs `udrouter reload`, which is to end so.
func (r reloading) reload(src string, status int) (stdout, stderr string) {
	r.t.Helper()
	r.write(src)
	return command(r.t, status, "reload", "--socket", r.p.Socket)
}

// silent tells that a guest gets no answer from an address.
func silent(t *testing.T, from *lab.Node, to netip.Addr) {
	t.Helper()
	ctx, cancel := context.WithTimeout(testContext(t), 300*time.Millisecond)
	defer cancel()
	if _, err := from.Ping(ctx, to, lab.PingOptions{Every: 50 * time.Millisecond}); err == nil {
		t.Errorf("%s answers %s", to, from.Name())
	}
}

// The file changes while connections are open: those that the new one admits go on, the others end as a new one of that kind would be refused; guests
// come, go and get another MAC with their ports; a bad file changes nothing. At the end dom0 is as it was.
func TestReload(t *testing.T) {
	for _, args := range [][]string{nil, {"--offload"}} {
		t.Run(strings.Join(args, " "), func(t *testing.T) { reloads(t, args) })
	}
}

func reloads(t *testing.T, args []string) {
	l := buildLab(t, changeable, lab.Options{})
	before, err := l.Dom0State()
	must(t, err)
	p := startRouter(t, l, args...)
	r := reloading{t, l, p}
	one, three := l.Guest("one"), l.Guest("three")
	// What goes on is the kernel's with --offload, and what the file ends was.
	inUse := func(c *lab.Conn) *lab.Conn {
		t.Helper()
		was := status(t, p).Flows.OffloadHits
		for range 20 {
			must(t, c.Check(testContext(t)))
		}
		if forwards := status(t, p).Flows.OffloadHits > was; forwards != strings.Contains(fmt.Sprint(args, os.Getenv(wire.MoreArgs)), "--offload") {
			t.Errorf("the kernel forwards: %v", forwards)
		}
		return c
	}
	const mail, web, shell = 25, 443, 22
	lives := []*lab.Conn{inUse(openTCP(t, one.Node, l.Internet, l.Internet.Addr4(), web)), inUse(openTCP(t, l.Internet, one.Node, one.Addr6(), shell))}
	alive := func(when string) {
		t.Helper()
		for _, c := range lives {
			if err := c.Check(testContext(t)); err != nil {
				t.Fatalf("%s: %v", when, err)
			}
		}
	}
	reaches(t, three.Node, l.Internet.Addr4())

	// 1. A guest goes, and comes back, with its port.
	cut := strings.Index(changeable, `domu "three"`)
	out, _ := r.reload(changeable[:cut], 0)
	contains(t, out, "reloaded")
	alive("without the third guest")
	silent(t, three.Node, l.Internet.Addr4())
	if n := len(status(t, p).Domus); n != 2 {
		t.Errorf("%d domus", n)
	}
	r.reload(changeable, 0)
	alive("with the third guest again")
	for _, a := range []netip.Addr{l.Internet.Addr4(), l.Internet.Addr6()} {
		ping(t, three.Node, a)
	}

	// 2. A rule for one of the connections; new ones of that kind are refused, and others not.
	ends := inUse(openTCP(t, one.Node, l.Internet, l.Internet.Addr6(), mail))
	rejecting := strings.Replace(changeable, `policy "open" {`, "policy \"open\" {\n  egress {\n    rule \"no mail\" {\n      action = \"reject\"\n      proto  = \"tcp\"\n      ports  = [25]\n    }\n  }", 1)
	r.reload(rejecting, 0)
	if err := ends.Check(testContext(t)); err == nil || !strings.Contains(err.Error(), "reset") {
		t.Errorf("the connection that the file now rejects: %v", err)
	}
	alive("with a rule for another connection")
	if _, err := one.Open(testContext(t), netip.AddrPortFrom(l.Internet.Addr4(), mail)); err == nil {
		t.Error("a new connection for mail is opened")
	}

	// 3. A file with mistakes, all of which are told, and one that needs a restart.
	bad := strings.Replace(strings.Replace(rejecting, `"192.0.2.99"`, `"192.0.2.999"`, 1), `action = "reject"`, `action = "refuse"`, 1)
	_, errs := r.reload(bad, 1)
	contains(t, errs, "router.hcl line "+lineOf(bad, "192.0.2.999"), "router.hcl line "+lineOf(bad, "refuse"))
	contains(t, p.Log(), "reloading failed", "router.hcl:"+lineOf(bad, "refuse"))
	if s := status(t, p); s.Reloads != 3 || s.LastReload == nil || !strings.Contains(s.LastReload.Error, "router.hcl:") {
		t.Errorf("%d reloads, the last %+v", s.Reloads, s.LastReload)
	}
	text, _ := command(t, 0, "status", "--socket", p.Socket)
	contains(t, text, "3 reloads", "failed: ")
	r.write(strings.Replace(rejecting, `bridge "xenbr0" {}`, `bridge "xenbr0" { mtu = 1400 }`, 1))
	out, _ = command(t, 1, "reload", "--socket", p.Socket, "--json")
	var a router.ReloadAnswer
	must(t, json.Unmarshal([]byte(out), &a))
	if len(a.Diagnostics) != 1 || !strings.Contains(a.Diagnostics[0].String(), "restart") || a.Diagnostics[0].Line == 0 {
		t.Errorf("%s", out)
	}
	alive("after a bad file")

	// 4. Another MAC, in the file and in the guest.
	mac := policy.MAC{0, 0x16, 0x3e, 0, 0, 0x71}
	r.reload(strings.Replace(rejecting, "00:16:3e:00:00:01", mac.String(), 1), 0)
	must(t, one.SetLinkMAC(one.Link, mac))
	alive("with another MAC")

	// 5. SIGHUP does the same.
	r.write(changeable[:cut])
	must(t, p.Signal(syscall.SIGHUP))
	must(t, lab.Await(testContext(t), "the fifth reload", func() (bool, error) { return status(t, p).Reloads == 5, nil }))
	silent(t, three.Node, l.Internet.Addr4())
	must(t, one.SetLinkMAC(one.Link, one.MAC))
	alive("after SIGHUP")
	must(t, p.Stop())
	same(t, l, before)
}

// systemd hears of each reload, good or bad, by RELOADING=1 with the time and by READY=1, and that the router is alive.
func TestReloadNotifies(t *testing.T) {
	l := buildLab(t, changeable, lab.Options{})
	socket := filepath.Join(l.Dir(), "notify.sock")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	must(t, err)
	defer c.Close()
	p := startService(t, l, socket, nil, []string{"WATCHDOG_USEC=400000"})
	r := reloading{t, l, p}
	var watchdogs int
	next := func() string {
		t.Helper()
		buf := make([]byte, 4096)
		for {
			must(t, c.SetReadDeadline(time.Now().Add(timeout)))
			n, err := c.Read(buf)
			must(t, err)
			if s := string(buf[:n]); s != "WATCHDOG=1" {
				return s
			}
			watchdogs++
		}
	}
	if s := next(); s != "READY=1" {
		t.Fatalf("first %q", s)
	}
	for _, file := range []struct{ src, status string }{{changeable, "reloaded"}, {"nonsense", "failed"}, {changeable, "reloaded"}} {
		r.write(file.src)
		must(t, p.Signal(syscall.SIGHUP))
		began := next()
		usec, ok := strings.CutPrefix(began, "RELOADING=1\nMONOTONIC_USEC=")
		if n, err := strconv.ParseInt(usec, 10, 64); !ok || err != nil || n <= 0 {
			t.Errorf("at the beginning of a reload %q", began)
		}
		if s := next(); !strings.HasPrefix(s, "READY=1\nSTATUS=") || !strings.Contains(s, file.status) {
			t.Errorf("at the end of a reload %q", s)
		}
	}
	for watchdogs < 3 { // they come by themselves
		must(t, c.SetReadDeadline(time.Now().Add(timeout)))
		buf := make([]byte, 4096)
		n, err := c.Read(buf)
		must(t, err)
		if string(buf[:n]) == "WATCHDOG=1" {
			watchdogs++
		}
	}
}

// A configuration that a symbolic link leads to may move within the directories that the confined router may read. What has moved out of them is
// refused, with the reason and what to do, whether it is the link that leads elsewhere or the directory that is another.
func TestReloadMovedFile(t *testing.T) {
	const link = "conf/router.hcl"
	for _, c := range []struct {
		name, moves, to, leads string // what is renamed, and where the link leads then
		now                    string // the directory that is named; "": the reload is good
	}{
		{"within its directory", "a/router.hcl", "a/other.hcl", "../a/other.hcl", ""},
		{"the link leads elsewhere", "a", "was", "../b/router.hcl", "/b"},
		{"its directory is another", "a", "old", "../a/router.hcl", "/a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := buildLab(t, changeable, lab.Options{})
			dir, err := filepath.EvalSymlinks(t.TempDir())
			must(t, err)
			in := func(name string) string { return filepath.Join(dir, name) }
			for _, sub := range []string{"conf", "a", "b"} {
				must(t, os.Mkdir(in(sub), 0o755))
			}
			writeFile(t, in("a"), "router.hcl", []byte(changeable), 0o644)
			writeFile(t, in("b"), "router.hcl", []byte(changeable), 0o644)
			must(t, os.Symlink("../a/router.hcl", in(link)))
			p := startRouter(t, l, "-c", in(link))
			must(t, os.Rename(in(c.moves), in(c.to)))
			if c.to == "old" {
				must(t, os.Rename(in("b"), in("a")))
			}
			must(t, os.Symlink(c.leads, in("next")))
			must(t, os.Rename(in("next"), in(link)))
			if c.now == "" {
				command(t, 0, "reload", "--socket", p.Socket)
				return
			}
			_, errs := command(t, 1, "reload", "--socket", p.Socket)
			contains(t, errs, "Landlock", "the file is in "+dir+c.now+" now", "Restart the router")
			must(t, p.Signal(syscall.SIGHUP))
			must(t, p.AwaitLog(testContext(t), regexp.MustCompile("refused by Landlock")))
			if s := status(t, p); s.Reloads != 0 {
				t.Errorf("%d reloads", s.Reloads)
			}
		})
	}
}
