package dom0

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A test that kills a router starts this program again as one: in dom0's namespace, with the test's spec.
const (
	envDir   = "DOM0_TEST_DIR"  // its state directory
	envDie   = "DOM0_TEST_DIE"  // after so many changes it kills itself
	envEdit  = "DOM0_TEST_EDIT" // what is different about its spec
	wordHere = "open"           // it says when it has opened
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(envDir); dir != "" {
		if err := child(dir); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func child(dir string) error {
	w := &world{dir: dir, log: new(testLog)}
	spec := w.spec()
	if edit := os.Getenv(envEdit); edit != "" {
		spec.Bridge = edit
	}
	spec.Log = nil
	if n, err := strconv.Atoi(os.Getenv(envDie)); err == nil {
		spec.Log = slog.New(&dieAfter{slog.DiscardHandler, n})
	}
	d, err := Open(spec)
	if err != nil {
		return err
	}
	fmt.Println(wordHere)
	return d.Run(context.Background())
}

// dieAfter is a logger that kills the process with its nth message. Every change is logged when it is done.
type dieAfter struct {
	slog.Handler
	n int
}

func (h *dieAfter) Enabled(context.Context, slog.Level) bool { return true }

func (h *dieAfter) Handle(_ context.Context, r slog.Record) error {
	if h.n--; r.Level == slog.LevelInfo && h.n == 0 {
		unix.Kill(os.Getpid(), unix.SIGKILL)
		select {}
	}
	return nil
}

// start starts a router in a process of its own and returns when it has opened (true) or ended.
func (w *world) start(env ...string) (cmd *exec.Cmd, open bool) {
	w.t.Helper()
	exe, err := os.Executable()
	must(w.t, err)
	cmd = exec.Command(exe)
	cmd.Env = append(os.Environ(), append(env, envDir+"="+w.dir)...)
	cmd.Stderr = w.log
	out, err := cmd.StdoutPipe()
	must(w.t, err)
	w.do(w.dom0, cmd.Start) // from a thread that is in dom0
	w.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line, _ := bufio.NewReader(out).ReadString('\n')
	if open = strings.TrimSpace(line) == wordHere; !open {
		w.log.Write([]byte(line))
		err := cmd.Wait()
		if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != unix.SIGKILL {
			w.t.Fatalf("the router ended: %v\n%s", err, w.log)
		}
	}
	return cmd, open
}

func (w *world) kill(cmd *exec.Cmd) {
	w.t.Helper()
	must(w.t, cmd.Process.Kill())
	_ = cmd.Wait()
}

func (w *world) restore() error {
	var err error
	w.do(w.dom0, func() error { err = Restore(w.dir, nil); return nil })
	return err
}

// user sets what a user may have set: nothing of it may be lost.
func (w *world) user() {
	w.t.Helper()
	w.do(w.dom0, func() error {
		br, err := netlink.LinkByName("xenbr0")
		if err != nil {
			return err
		}
		vif, err := netlink.LinkByName("vif1.0")
		if err != nil {
			return err
		}
		tap, err := netlink.LinkByName("udr0")
		if err != nil {
			return err
		}
		rt := &rtnl{} // setBridge on the thread's own socket
		set := func(name string, v uint32) error {
			for _, s := range bridgeSettings {
				if s.name == name {
					return s.set(rt, br.Attrs().Index, v)
				}
			}
			return errors.New(name)
		}
		return errors.Join(
			set("forward_delay", 400), set("stp_state", 1), set("mcast_querier", 1), set("group_fwd_mask", 8),
			netlink.LinkSetMTU(br, 1450),
			netlink.LinkSetFlood(vif, false), netlink.LinkSetHairpin(vif, true), netlink.LinkSetIsolated(vif, true),
			netlink.NeighSet(&netlink.Neigh{LinkIndex: vif.Attrs().Index, Family: unix.AF_BRIDGE, State: netlink.NUD_NOARP,
				Flags: netlink.NTF_MASTER, HardwareAddr: net.HardwareAddr{0, 0x16, 0x3e, 0, 0, 0x66}}),
			// An absent guest's, and one of the guest's own that is not sticky.
			netlink.NeighSet(&netlink.Neigh{LinkIndex: vif.Attrs().Index, Family: unix.AF_BRIDGE, State: netlink.NUD_NOARP,
				Flags: netlink.NTF_MASTER, HardwareAddr: net.HardwareAddr(guest3MAC[:])}),
			netlink.NeighSet(&netlink.Neigh{LinkIndex: vif.Attrs().Index, Family: unix.AF_BRIDGE, State: netlink.NUD_NOARP,
				Flags: netlink.NTF_MASTER, HardwareAddr: net.HardwareAddr(guest1MAC[:])}),
			addAddr("xenbr0", "fe80::1/64"), addAddr("vif1.0", "fe80::2/64"),
			addAddr("vif2.0", "192.0.2.1/24"), sysctl("ipv6/conf/vif2.0/disable_ipv6", "1"),
			netlink.LinkSetMTU(tap, 1400),
		)
	})
}

func TestHundredCycles(t *testing.T) {
	for name, prepare := range map[string]func(w *world){
		"plain": func(*world) {},
		"user":  (*world).user,
		"empty bridge": func(w *world) {
			w.do(w.dom0, func() error { return errors.Join(setMaster("vif1.0", ""), setMaster("vif2.0", "")) })
			w.do(w.dom0, func() error { return errors.Join(delLink("xenbr0"), addBridge("xenbr0")) })
		},
		"no bridge": func(w *world) { w.do(w.dom0, func() error { return delLink("xenbr0") }) },
		"addresses": func(w *world) {
			w.do(w.dom0, func() error {
				return errors.Join(addAddr("xenbr0", "192.0.2.1/24"), addAddr("xenbr0", "2001:db8:3:2:1::1/80"), addRoute("vif1.0", "2001:db8:77::/64"))
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			prepare(w)
			before := w.snapshot()
			for i := range 100 {
				d, err := w.tryOpen(w.spec())
				must(t, err)
				if i%10 == 0 {
					if w.snapshot() == before {
						t.Fatal("nothing was changed")
					}
				}
				must(t, d.Close())
				if i%10 == 0 || i == 99 {
					diff(t, before, w.snapshot())
				}
			}
			left, err := os.ReadDir(w.dir)
			if err != nil || len(left) > 0 {
				t.Errorf("left in the state directory: %v, %v", left, err)
			}
		})
	}
}

func addBridge(name string) error {
	return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}})
}

// A bridge with addresses is somebody's: they stay, and are warned of.
func TestBridgeWithAddresses(t *testing.T) {
	w := newWorld(t)
	w.do(w.dom0, func() error {
		return errors.Join(addAddr("xenbr0", "192.0.2.1/24"), addAddr("xenbr0", "2001:db8:3:2:1::1/80"), addRoute("vif1.0", "2001:db8:77::/64"))
	})
	d := w.open(w.spec())
	all := strings.Join(d.Warnings(), "\n")
	for _, want := range []string{
		"bridge xenbr0 has the address 192.0.2.1/24",
		"`ip addr del 2001:db8:3:2:1::1/80 dev xenbr0`",
		"xenbr0 has the address 2001:db8:3:2:1::1/80, so that its IPv6 is left on",
		"vif1.0 has the route 2001:db8:77::/64, so that its IPv6 is left on",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("no warning %q in\n%s", want, all)
		}
	}
	// They do not let a guest in.
	g1 := w.packetSocket(w.g1, "eth0")
	bridge := w.macOf(w.dom0, "xenbr0")
	send(t, g1, whoHas(guest1MAC, "192.0.2.10", "192.0.2.1"), solicit(guest1MAC, "2001:db8:3:2:1::10", dom0V6),
		ether(bridge, guest1MAC, unix.ETH_P_IP, udp("192.0.2.10", "192.0.2.1", 9, "x")), frame(routerMAC, guest1MAC, 'z'))
	until(t, w.tap, 'z')
	n, err := d.Counters()
	must(t, err)
	if n[CountBridgeUp] < 3 {
		t.Errorf("counted %v", n)
	}
}

func TestKilledRun(t *testing.T) {
	for name, prepare := range map[string]func(w *world){
		"user's bridge": (*world).user,
		"our bridge":    func(w *world) { w.do(w.dom0, func() error { return delLink("xenbr0") }) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			prepare(w)
			before := w.snapshot()
			cmd, _ := w.start()
			var held *HeldError
			if _, err := w.tryOpen(w.spec()); !errors.As(err, &held) || held.PID != cmd.Process.Pid || held.Bridge != "xenbr0" {
				t.Errorf("a second router: %v, the first has pid %d", err, cmd.Process.Pid)
			} else if want := fmt.Sprintf("another udrouter runs for bridge xenbr0 (pid %d): stop it first", held.PID); err.Error() != want {
				t.Errorf("the refusal says %q", err)
			}
			if err := w.restore(); !errors.As(err, &held) {
				t.Errorf("restoring under a running router: %v", err)
			}
			running := w.snapshot()
			w.kill(cmd)
			diff(t, running, w.snapshot()) // closed: as it was while the router ran

			// The next run, and one more kill, know what the first found.
			cmd, _ = w.start()
			w.kill(cmd)
			d := w.open(w.spec())
			diff(t, running, w.snapshot())
			must(t, d.Close())
			diff(t, before, w.snapshot())

			// Or nobody starts one again.
			cmd, _ = w.start()
			w.kill(cmd)
			must(t, w.restore())
			diff(t, before, w.snapshot())
			must(t, w.restore())

			// Or one starts for another bridge, and undoes what was done to the first.
			cmd, _ = w.start()
			w.kill(cmd)
			spec := w.spec()
			spec.Bridge = "other"
			d = w.open(spec)
			if s := w.snapshot(); name == "our bridge" && strings.Contains(s, "link xenbr0 ") {
				t.Error("the killed run's bridge is still there")
			}
			must(t, d.Close())
			diff(t, before, w.snapshot())
		})
	}
}

// Killed after each of its changes, a run leaves a journal that undoes what it did.
func TestKilledAtEveryStep(t *testing.T) {
	for name, prepare := range map[string]func(w *world){
		"user's bridge": (*world).user,
		"our bridge":    func(w *world) { w.do(w.dom0, func() error { return delLink("xenbr0") }) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			prepare(w)
			before := w.snapshot()
			for n := 1; ; n++ {
				cmd, open := w.start(envDie + "=" + strconv.Itoa(n))
				if open {
					w.kill(cmd)
					must(t, w.restore())
					if n < 10 {
						t.Errorf("only %d changes were tried", n)
					}
					break
				}
				if n%2 == 0 {
					must(t, w.restore())
				} else {
					d, err := w.tryOpen(w.spec())
					must(t, err)
					must(t, d.Close())
				}
				diff(t, before, w.snapshot())
			}
			diff(t, before, w.snapshot())
		})
	}
}

// What came while the router ran is in the journal as well.
func TestKilledAfterLateVif(t *testing.T) {
	w := newWorld(t)
	w.veth(w.dom0, "vif3.0", newNS(t), "eth0", guest3MAC)
	w.do(w.dom0, func() error { return setMaster("vif3.0", "xenbr0") })
	before := w.snapshot()
	w.do(w.dom0, func() error { return setMaster("vif3.0", "") })
	cmd, _ := w.start()
	w.do(w.dom0, func() error { return setMaster("vif3.0", "xenbr0") })
	locked := func() bool { return strings.Contains(w.snapshot(), "port vif3.0 39=01\n") }
	eventually(t, "vif3.0 is locked", locked)
	eventually(t, "vif3.0 has no IPv6", func() bool {
		return strings.Contains(w.snapshot(), "sysctl ipv6/conf/vif3.0/disable_ipv6 = 1\n")
	})
	w.kill(cmd)
	if !locked() {
		t.Error("vif3.0 is open after the kill")
	}
	must(t, w.restore())
	diff(t, before, w.snapshot())
}

// A device that has gone since, or another that has its name, is not touched.
func TestJournalOfVanishedDevices(t *testing.T) {
	w := newWorld(t)
	w.user()
	cmd, _ := w.start()
	w.kill(cmd)
	w.do(w.dom0, func() error { return delLink("vif1.0") })
	w.guest("vif1.0", w.g1, guest1MAC)
	must(t, w.restore())
	st := &state{}
	w.do(w.dom0, func() error {
		ns, err := openNetNS()
		if err != nil {
			return err
		}
		defer ns.close()
		rt, err := openRtnl(ns)
		if err != nil {
			return err
		}
		defer rt.close()
		d := &Dom0{rt: rt, spec: w.spec()}
		st, err = d.observe()
		return err
	})
	f := st.ports[st.named("vif1.0").index]
	if want := (portFlags{"hairpin": 0, "isolated": 0, "flood": 1, "learning": 1, "locked": 0}); !f.equal(want) {
		t.Errorf("the new vif1.0 got what the old one had: %v", f)
	}
}

func TestJournalOfAnotherBoot(t *testing.T) {
	w := newWorld(t)
	cmd, _ := w.start()
	w.kill(cmd)
	files, err := filepath.Glob(filepath.Join(w.dir, "*.json"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	info, err := os.Stat(files[0])
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("journal %v, %v", info.Mode(), err)
	}
	b, err := os.ReadFile(files[0])
	must(t, err)
	boot, err := bootID()
	must(t, err)
	must(t, os.WriteFile(files[0], []byte(strings.Replace(string(b), boot, "another", 1)), 0o600))
	d := w.open(w.spec())
	must(t, d.Close())
	if s := w.snapshot(); !strings.Contains(s, "port vif1.0 39=01\n") {
		t.Error("a journal of another boot was used") // what was found is now taken for the user's
	}

	must(t, os.WriteFile(files[0], []byte("{"), 0o600))
	d = w.open(w.spec())
	if !strings.Contains(w.log.String(), "the undo journal was damaged") {
		t.Error("nothing said of the damaged journal")
	}
	must(t, d.Close())
	left, _ := os.ReadDir(w.dir)
	if !slices.ContainsFunc(left, func(e os.DirEntry) bool { return strings.HasSuffix(e.Name(), ".damaged") }) {
		t.Errorf("the damaged journal is not kept: %v", left)
	}
}

func TestRefusals(t *testing.T) {
	w := newWorld(t)
	before := w.snapshot()
	for want, edit := range map[string]func(*Spec){
		"uplink eth7: no such interface":           func(s *Spec) { s.Uplink = "eth7" },
		"tap udr7: no such interface":              func(s *Spec) { s.TAP = "udr7" },
		"host interface udr7: no such interface":   func(s *Spec) { s.HostTUN = "udr7" },
		"lo is not a bridge":                       func(s *Spec) { s.Bridge = "lo" },
		"uplink vif1.0 is a port of bridge xenbr0": func(s *Spec) { s.Uplink, s.Ports = "vif1.0", nil },
		"that of udr0 itself":                      func(s *Spec) { s.RouterMAC = w.macOf(w.dom0, "udr0") },
		"is already bound to the router":           func(s *Spec) { s.Ports[0].MACs[0] = routerMAC },
		"is already bound to vif1.0":               func(s *Spec) { s.Ports[1].MACs[0] = guest1MAC },
		"vif and vif are both named vif1.0":        func(s *Spec) { s.Ports[1].Vif = "vif1.0" },
		"MAC 01:00:00:00:00:00 is not a station's": func(s *Spec) { s.Ports[0].MACs[0] = [6]byte{1} },
		"the router's MAC 00:00:00:00:00:00":       func(s *Spec) { s.RouterMAC = [6]byte{} },
		`bridge: "a-name-that-is-too-long"`:        func(s *Spec) { s.Bridge = "a-name-that-is-too-long" },
		"mtu 60 is less than 68":                   func(s *Spec) { s.MTU = 60 },
		"no state directory":                       func(s *Spec) { s.StateDir = "" },
		"routes to the host interface without one": func(s *Spec) { s.HostTUN = "" },
		"192.0.2.7/24 is not a prefix":             func(s *Spec) { s.Guests = prefixes("192.0.2.7/24") },
	} {
		spec := w.spec()
		edit(&spec)
		d, err := w.tryOpen(spec)
		if err == nil {
			d.Close()
			t.Errorf("%q: not refused", want)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%q: refused by %q", want, err)
		}
		diff(t, before, w.snapshot())
	}
	// A refusal at the start after a kill leaves the guests locked.
	cmd, _ := w.start()
	w.kill(cmd)
	locked := w.snapshot()
	spec := w.spec()
	spec.Uplink = "eth7"
	if _, err := w.tryOpen(spec); err == nil {
		t.Error("not refused")
	}
	diff(t, locked, w.snapshot())
	must(t, w.restore())
	diff(t, before, w.snapshot())
}

func TestWithoutPrivilege(t *testing.T) {
	w := newWorld(t)
	before := w.snapshot()
	exe, err := os.Executable()
	must(t, err)
	b, err := os.ReadFile(exe)
	must(t, err)
	dir, err := os.MkdirTemp("", "dom0test") // the test's own is for root alone
	must(t, err)
	defer os.RemoveAll(dir)
	must(t, os.Chmod(dir, 0o777))
	must(t, os.WriteFile(filepath.Join(dir, "test"), b, 0o755))
	cmd := exec.Command(filepath.Join(dir, "test"))
	cmd.Env = append(os.Environ(), envDir+"="+filepath.Join(dir, "state"))
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	var out []byte
	w.do(w.dom0, func() error {
		out, err = cmd.Output()
		return nil
	})
	if err == nil || !strings.Contains(string(out), "needs root or CAP_NET_ADMIN") {
		t.Errorf("%v: %s", err, out)
	}
	diff(t, before, w.snapshot())
}
