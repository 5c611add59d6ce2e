package integration

import (
	"bufio"
	"errors"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gopacket/gopacket/pcapgo"

	"udrouter/integration/lab"
	"udrouter/integration/wire"
)

// capturer is a running `udrouter capture`.
type capturer struct {
	cmd *exec.Cmd
	out *bufio.Reader
}

// startCapture returns when the router captures.
func startCapture(t *testing.T, p *lab.Proc, args ...string) *capturer {
	t.Helper()
	cmd := exec.CommandContext(testContext(t), wire.Exe, append([]string{"capture", "--socket", p.Socket}, args...)...)
	pipe, err := cmd.StdoutPipe()
	must(t, err)
	cmd.Stderr = os.Stderr
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	c := &capturer{cmd, bufio.NewReader(pipe)}
	_, err = c.out.Peek(1)
	must(t, err)
	return c
}

// frames reads what there is to the end, and returns comments by interface, and the largest frame.
func frames(t *testing.T, in io.Reader) (comments map[string][]string, largest int) {
	t.Helper()
	r, err := pcapgo.NewNgReader(in, pcapgo.NgReaderOptions{WantMixedLinkType: true})
	must(t, err)
	comments = map[string][]string{}
	for {
		_, ci, o, err := r.ReadPacketDataWithOptions()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return comments, largest
		}
		must(t, err)
		link, err := r.Interface(ci.InterfaceIndex)
		must(t, err)
		comments[link.Name] = append(comments[link.Name], o.Comments...)
		largest = max(largest, ci.Length)
	}
}

// A confined router's frames come with what became of them: a guest's connection in both directions, super-packets whole and marked, and mail that a rule
// refuses. A file is for root's eyes. Who captures and does not read stops nobody.
func TestCaptureCommand(t *testing.T) {
	l := buildLab(t, "", lab.Options{})
	p := startRouter(t, l)
	one, two, x := l.Guests[0].Node, l.Guests[1].Node, l.Internet
	ping(t, one, x.Addr4())
	ping(t, two, x.Addr4())
	file := filepath.Join(t.TempDir(), "one.pcapng")

	stuck := startCapture(t, p, "--snaplen", "65550") // nobody reads it
	refused := startCapture(t, p, "--domu", "two", "--verdict", "drop", "--count", "1")
	both := startCapture(t, p, "--domu", "one", "--verdict", "accept", "--count", "200")
	if _, err := two.Open(testContext(t), netip.AddrPortFrom(x.Addr4(), 25)); err == nil {
		t.Error("guests send mail")
	}
	_, err := x.ServeTCP(443)
	must(t, err)
	must(t, one.Transfer(testContext(t), netip.AddrPortFrom(x.Addr4(), 443), 64<<20))
	got, _ := frames(t, refused.out)
	if len(got["udr0"]) != 1 || !strings.HasPrefix(got["udr0"][0], "drop egress-policy") || !strings.Contains(got["udr0"][0], "no-smtp of egress in untrusted") {
		t.Errorf("the mail: %v", got)
	}
	must(t, refused.cmd.Wait())
	got, largest := frames(t, both.out)
	must(t, both.cmd.Wait())
	text := strings.Join(append(got["udr0"], got["eth0"]...), "\n")
	contains(t, text, "accept to eth0; from domu one", "accept to udr0; to domu one")
	if len(got["udr0"])+len(got["eth0"]) != 200 {
		t.Errorf("%d and %d frames", len(got["udr0"]), len(got["eth0"]))
	}
	if !strings.Contains(text, "GSO: segments of") || largest < 2000 {
		t.Errorf("no super-packets, the largest has %d bytes:\n%s", largest, text)
	}
	if s := status(t, p).Capture; s.Active != 1 || s.Missed == 0 || s.Frames == 0 {
		t.Errorf("%+v", s)
	}
	ping(t, two, x.Addr6())
	must(t, stuck.cmd.Process.Signal(os.Interrupt))
	_, err = io.Copy(io.Discard, stuck.out)
	must(t, err)
	must(t, stuck.cmd.Wait())
	must(t, lab.Await(testContext(t), "the capture's end", func() (bool, error) { return status(t, p).Capture.Active == 0, nil }))

	toFile := exec.CommandContext(testContext(t), wire.Exe, "capture", "--socket", p.Socket, "-w", file, "--count", "2")
	must(t, toFile.Start())
	must(t, lab.Await(testContext(t), "a capture", func() (bool, error) { return status(t, p).Capture.Active == 1, nil }))
	ping(t, one, x.Addr4())
	must(t, toFile.Wait())
	f, err := os.Open(file)
	must(t, err)
	defer f.Close()
	if fi, err := f.Stat(); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
	if got, _ := frames(t, bufio.NewReader(f)); len(got["udr0"])+len(got["eth0"]) != 2 {
		t.Errorf("%v", got)
	}
	_, errs := command(t, 1, "capture", "--socket", p.Socket, "--domu", "nobody")
	contains(t, errs, `no domu "nobody"`)
	_, errs = command(t, 1, "capture", "--socket", filepath.Join(t.TempDir(), "none.sock"))
	contains(t, errs, "no router answers")
	out, _ := command(t, 0, "__complete", "capture", "--socket", p.Socket, "--domu", "")
	contains(t, out, "one\n", "two\n")
	out, _ = command(t, 0, "__complete", "capture", "--reason", "ip")
	contains(t, out, "ip-binding\n")
}
