package integration

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sync/errgroup"

	"udrouter/integration/lab"
	"udrouter/integration/wire"
)

// Many ask for a reload at the same time, by the command and by SIGHUP, while the file changes, now and then to one with a mistake, and packets pass: each is told that
// it went well or what is wrong, no packet is lost, what is counted is what was logged, and in the end the last file is in force.
func TestReloadStorm(t *testing.T) {
	l := buildLab(t, changeable, lab.Options{})
	before, err := l.Dom0State()
	must(t, err)
	p := startRouter(t, l, "--workers", "2")
	one, three, x := l.Guest("one").Node, l.Guest("three").Node, l.Internet
	must(t, x.ServeUDP(7))
	s := startStream(t, one, netip.AddrPortFrom(x.Addr4(), 7))
	ctx, stop := context.WithCancel(testContext(t))
	defer stop()
	var sending, transfers errgroup.Group
	sending.Go(func() error { return s.send(ctx) })
	idle := everyWay(t, one, x, 443, 16<<20, &transfers)

	alone := changeable[:strings.Index(changeable, `domu "three"`)]
	files := []string{changeable, alone, changeable + "nonsense {}\n", alone + "policy \"more\" {}\n"}
	write := func(src string) error { // whole or not at all, as editors and tools do
		next := filepath.Join(l.Dir(), "router.hcl.next")
		if err := os.WriteFile(next, []byte(src), 0o644); err != nil {
			return err
		}
		return os.Rename(next, filepath.Join(l.Dir(), "router.hcl"))
	}
	said := regexp.MustCompile(`^reloaded \((\d+) times so far\)\n$`)
	const askers, times = 4, 8
	var well, wrong atomic.Uint64
	var asking sync.WaitGroup
	var storm errgroup.Group
	done := make(chan struct{})
	for range askers {
		asking.Add(1)
		storm.Go(func() error {
			defer asking.Done()
			for range times {
				out, err := exec.CommandContext(ctx, wire.Exe, "reload", "--socket", p.Socket).CombinedOutput()
				switch {
				case err == nil && said.Match(out):
					well.Add(1)
				case err != nil && strings.Contains(string(out), "nonsense") && strings.Contains(string(out), "router.hcl line "):
					wrong.Add(1)
				default:
					return fmt.Errorf("a reload says %q, %v", out, err)
				}
			}
			return nil
		})
	}
	go func() {
		asking.Wait()
		close(done)
	}()
	storm.Go(func() error {
		for i := 0; ; i++ {
			select {
			case <-done:
				return nil
			default:
			}
			if err := write(files[i%len(files)]); err != nil {
				return err
			}
			if err := p.Signal(syscall.SIGHUP); err != nil {
				return err
			}
			if _, err := p.Get(ctx, "/v1/status"); err != nil { // which takes a moment
				return err
			}
		}
	})
	must(t, storm.Wait())
	must(t, transfers.Wait())
	t.Logf("%d reloads by the command went well, %d found a mistake; %d in all", well.Load(), wrong.Load(), status(t, p).Reloads)
	if well.Load() == 0 || wrong.Load() == 0 {
		t.Error("not both kinds of files were met")
	}

	must(t, write(alone))
	command(t, 0, "reload", "--socket", p.Socket)
	silent(t, three, x.Addr4())
	must(t, write(changeable))
	command(t, 0, "reload", "--socket", p.Socket)
	ping(t, three, x.Addr4())
	for _, c := range idle {
		must(t, c.Check(testContext(t)))
	}
	stop()
	must(t, sending.Wait())
	// What a machine with too much to do has lost at the links' queues is counted; nothing else may be lost, and not much of that.
	lost := func() uint64 { return s.sent.Load() - s.received.Load() }
	counted := func() uint64 { return status(t, p).Drops["queue-full"] }
	_ = lab.Await(testContext(t), "all datagrams", func() (bool, error) { return lost() <= counted(), nil })
	s.conn.Close()
	<-s.done
	now := status(t, p)
	if lost() > counted() || lost() > s.sent.Load()/20 || now.Drops["internal"] != 0 || now.ForeignMAC != 0 {
		t.Errorf("%d of %d datagrams came back; drops %v", s.received.Load(), s.sent.Load(), now.Drops)
	}
	logged := uint64(strings.Count(p.Log(), "msg=reloaded "))
	if now.Reloads != logged || now.Reloads < well.Load()+2 || now.LastReload == nil || now.LastReload.Error != "" {
		t.Errorf("%d reloads are counted, %d logged, and %d commands told that they went well; the last %+v", now.Reloads, logged, well.Load()+2, now.LastReload)
	}
	must(t, p.Stop())
	same(t, l, before)
}
