package integration

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"udrouter/integration/lab"
	"udrouter/integration/wire"
	"udrouter/policy"
)

// everyFile is hotplugFile with a guest that forges, a rule that refuses, and a test.
var everyFile = strings.Replace(hotplugFile, "policy \"open\" {\n", `policy "open" {
  egress {
    rule "no-smtp" {
      action = "reject"
      proto  = "tcp"
      ports  = [25]
    }
  }
`, 1) + `
domu "three" {
  vif    = "vif3.0"
  mac    = "00:16:3e:00:00:04"
  ipv4   = ["192.0.2.14"]
  policy = "open"
}
test "guests send no mail" {
  from   = "domu:two"
  dst    = "198.51.100.7"
  proto  = "tcp"
  port   = 25
  expect = "reject"
}
`

// every is a router under load, with dom0's commands.
type every struct {
	*plugged
	file, dir string
	manager   *manager
	load      *load
}

// commandRow is a command that is tried. In args, $FILE, $SOCKET, $STATE and $DIR are the router's, and a directory of the test's.
type commandRow struct {
	command, args string // the first as `udrouter help` has it
	status        int
	stdin         string
	says          []string                                     // regular expressions of its standard output, or where it fails of its standard error
	until         string                                       // as soon as it has said this it is interrupted, and ends with its status; "": it ends by itself
	meanwhile     func(t *testing.T, e *every, said string)    // before that, or after its end
	do            func(t *testing.T, e *every, args ...string) // instead of all this
	schema        string                                       // of what it prints with --json; "": it has none
	numbers       []string                                     // of that, which are not zero: names with dots, where * is each
}

var commandRows = []commandRow{
	{command: "version", says: []string{`^udrouter \S+\n$`}},
	{command: "help", args: "status", says: []string{`(?m)^Usage:`, `--socket`}},
	{command: "completion bash", says: []string{`__start_udrouter`}},
	{command: "completion fish", says: []string{`complete -c udrouter`}},
	{command: "completion powershell", says: []string{`Register-ArgumentCompleter`}},
	{command: "completion zsh", says: []string{`^#compdef udrouter`}},
	{command: "docs", args: "$DIR", meanwhile: func(t *testing.T, e *every, _ string) {
		contains(t, readFile(t, filepath.Join(e.dir, "udrouter-capture.8")), ".TH")
	}},
	{command: "check", args: "-c $FILE", says: []string{`is valid: 2 networks, 4 domus and 1 templates, 1 policies, 1 tests passed`}},
	{command: "import", args: "--interfaces importer/testdata/seed/interfaces --ndppd importer/testdata/seed/ndppd.conf --xl importer/testdata/seed/one.cfg", says: []string{`(?m)^domu "one" \{`}},
	{command: "explain", args: "-c $FILE --from domu:one --dst 198.51.100.7 --proto tcp --port 25", says: []string{`reject`, `no-smtp`, `router\.hcl:\d`}, schema: "explain", numbers: []string{"port"}},
	{command: "test", args: "-c $FILE", says: []string{`(?m)^ok +guests send no mail$`, `1 passed, 0 failed`}, schema: "test", numbers: []string{"passed", "coverage.total", "coverage.hit"}},
	{command: "test", args: "-c $FILE --live", says: []string{`(?m)^ok +guests send no mail$`, `1 passed, 0 failed`}},
	{command: "lab", args: "-c $FILE", says: []string{`[1-9]\d* held, 0 failed`, `one MAC on the uplink`}},

	{command: "status", args: "--socket $SOCKET", says: []string{`(?m)^udr0 +[1-9]`, `(?m)^eth0 +[1-9]`, `(?m)^one +[1-9]\d* +\d`, `(?m)^three +\d.* [1-9]\d*$`, `(?m)^ip-binding +[1-9]`, `flows: [1-9]`, `off the uplink: 0\n`},
		schema: "status", numbers: []string{"uptime_s", "links.*.rx_packets", "domus.*.tx_packets", "domus.*.drops", "flows.active", "flows.hits", "drops.ip-binding", "drops.martian-dst"}},
	{command: "flows", args: "--socket $SOCKET --domu one --proto tcp", says: []string{`(?m)^DOMU +FROM +TO`, `domu:one +uplink +tcp +192\.0\.2\.10:\d+ +198\.51\.100\.7:4000 +established`, `(?m)^[1-9]\d* of [1-9]\d* flows$`},
		schema: "flows", numbers: []string{"matched", "flows.*.packets", "flows.*.reply_bytes"}},
	{command: "flows", args: "--socket $SOCKET --follow=100ms --proto icmp", until: `(?s)flows\n.*flows\n`, says: []string{`domu:one +uplink +icmp`}, schema: "flows", numbers: []string{"matched"}},
	{command: "neighbours", args: "--socket $SOCKET", says: []string{`reachable +gateway`, `192\.0\.2\.10 +00:16:3e:00:00:01 .* one +vif1\.0`}, schema: "neighbours"},
	{command: "drops", args: "--socket $SOCKET", says: []string{`(?m)^ip-binding +[1-9].*three  udp 192\.0\.2\.10:40000 > 198\.51\.100\.7:5000`, `(?m)^ +three +[1-9]`}, schema: "drops",
		numbers: []string{"drops.ip-binding", "domus.three.martian-dst", "examples.ip-binding.dst_port"}},
	{command: "top", args: "--socket $SOCKET --every 100ms", status: 1, says: []string{`top wants a terminal`}},
	{command: "top", args: "--socket $SOCKET --every 100ms", do: topOnTerminal},
	{command: "top", args: "--socket $SOCKET --every 100ms --json", until: `\n.*\n`, schema: "top", numbers: []string{"drops_per_s", "links.*.rx_bits_per_s", "domus.*.tx_packets_per_s"}},
	{command: "capture", args: "--socket $SOCKET --domu three --verdict drop", until: `drop ip-binding`, says: []string{`three`}, schema: "capture", numbers: []string{"length"}},
	{command: "capture", args: "--socket $SOCKET --count 100 -w $DIR/some.pcapng", meanwhile: func(t *testing.T, e *every, _ string) {
		f, err := os.Open(filepath.Join(e.dir, "some.pcapng"))
		must(t, err)
		defer f.Close()
		if got, _ := frames(t, bufio.NewReader(f)); len(got["udr0"]) == 0 || len(got["eth0"]) == 0 || len(got["udr0"])+len(got["eth0"]) != 100 {
			t.Errorf("the capture has %v", got)
		}
	}},
	{command: "web", args: "--socket $SOCKET -c $FILE --listen 127.0.0.1:0", until: `/\n`, says: []string{`^http://127\.0\.0\.1:\d+/\S+/\n$`}, meanwhile: lookAtPage},
	{command: "pid", args: "--state $STATE", says: []string{`^\d+\n$`}, meanwhile: func(t *testing.T, e *every, said string) {
		if said != fmt.Sprintln(e.proc.PID()) {
			t.Errorf("it is %d", e.proc.PID())
		}
	}},
	{command: "doctor", args: "-c $FILE --state $STATE --socket $SOCKET", says: []string{`nothing is in the way`}, schema: "doctor"},
	{command: "vif add", args: "--vif vif7.0 --bridge xenbr0 --mac 00:16:3e:00:00:77 --ip 192.0.2.77 --domain web-1 --state $STATE --socket $SOCKET -c $FILE", says: []string{`bound to domu "web-1"`}, schema: "vif"},
	{command: "vif list", args: "--socket $SOCKET", says: []string{`(?m)^VIF +MAC`, `vif7\.0 +00:16:3e:00:00:77 +web-1 +bound +web-1`}, schema: "vif-list"},
	{command: "vif bridge", args: "--state $STATE --socket $SOCKET -c $FILE", says: []string{`^xenbr0\n$`}},
	{command: "vif libvirt", args: "--state $STATE --socket $SOCKET -c $FILE", says: []string{`^0 vnet9 52:54:00:66:66:66 c7a5fdbd-edaf-9455-926a-d65c16db1809\n$`},
		stdin: `<domain type='kvm' id='1'><name>web-1</name><uuid>c7a5fdbd-edaf-9455-926a-d65c16db1809</uuid><devices><interface type='bridge'><mac address='52:54:00:66:66:66'/><source bridge='xenbr0'/><target dev='vnet9'/></interface></devices></domain>`},
	{command: "vif remove", args: "--vif vif7.0 --state $STATE --socket $SOCKET -c $FILE", says: []string{`vif7\.0`}, schema: "vif"},

	{command: "reload", args: "--socket $SOCKET", says: []string{`^reloaded \(1 times so far\)\n$`}, schema: "reload", numbers: []string{"reloads"}},
	{command: "run", args: "-c $FILE --state $STATE --socket $SOCKET", status: 1, says: []string{`another udrouter runs for bridge xenbr0 \(pid \d+\)`}},
	{command: "run", args: "--takeover --state $STATE --socket $SOCKET", do: takesOver},
	{command: "upgrade", args: "-c $FILE", do: upgrades},
	{command: "status", args: "--socket $SOCKET", says: []string{`(?m)^one +[1-9]`}, schema: "status", numbers: []string{"flows.active", "drops.ip-binding"}},
}

// Every command is tried on a router under load, as the program lists them: what it prints for people, and with --json against its schema, with numbers of what
// there is. Connections, datagrams and echo go on through all of it, a reload, a takeover and an upgrade among them.
func TestEveryCommand(t *testing.T) {
	var tried []string
	for _, r := range commandRows {
		tried = append(tried, r.command)
	}
	listed := append(commandsOf(t), "docs") // for packagers, and hidden
	slices.Sort(tried)
	slices.Sort(listed)
	if tried = slices.Compact(tried); !slices.Equal(tried, listed) {
		t.Fatalf("there are rows for\n%q\nand commands\n%q", tried, listed)
	}
	state, dir := t.TempDir(), t.TempDir() // which are taken away after the lab
	e := &every{plugged: &plugged{Lab: buildLab(t, everyFile, lab.Options{}), t: t, state: state}, dir: dir, manager: startManager(t)}
	var err error
	e.file, err = e.ConfigPath()
	must(t, err)
	before, err := e.Dom0State()
	must(t, err)
	e.start()
	mac, err := policy.ParseMAC(status(t, e.proc).RouterMAC)
	must(t, err)
	e.load = startLoad(t, e.Lab, mac)
	e.guest("vif7.0", "00:16:3e:00:00:77", "192.0.2.77")
	must(t, lab.Await(testContext(t), "the load", func() (bool, error) {
		s := status(t, e.proc)
		return s.Drops["ip-binding"] > 10 && s.Drops["martian-dst"] > 10 && s.Flows.Active >= 12 && s.Flows.Hits > 100, nil
	}))
	for _, r := range commandRows {
		name := strings.TrimSpace(r.command + " " + r.args)
		t.Run(name, func(t *testing.T) { e.try(t, r) })
	}
	must(t, e.load.end(testContext(t)))
	if s := status(t, e.proc); s.ForeignMAC != 0 || s.Drops["internal"] != 0 || s.Reloads == 0 {
		t.Errorf("%+v", s)
	}
	must(t, e.proc.Stop())
	h, err := e.Dom0.Handle()
	must(t, err)
	vif, err := h.LinkByName("vif7.0")
	must(t, err)
	must(t, h.LinkDel(vif))
	same(t, e.Lab, before)
}

// commandsOf are the commands below one, those that have some of their own left out, as the program's help lists them.
func commandsOf(t *testing.T, above ...string) (list []string) {
	t.Helper()
	out, _ := command(t, 0, append([]string{"help"}, above...)...)
	_, out, ok := strings.Cut(out, "Available Commands:\n")
	if !ok {
		return []string{strings.Join(above, " ")}
	}
	for line := range strings.Lines(out) {
		words := strings.Fields(line)
		switch {
		case len(words) == 0:
			return list
		case words[0] == "help": // which answers for a command
			list = append(list, "help")
		default:
			list = append(list, commandsOf(t, append(slices.Clone(above), words[0])...)...)
		}
	}
	return list
}

func (e *every) args(r commandRow) []string {
	return strings.Fields(os.Expand(r.command+" "+r.args, func(name string) string {
		return map[string]string{"FILE": e.file, "SOCKET": e.proc.Socket, "STATE": e.state, "DIR": e.dir}[name]
	}))
}

// try runs a row, for people and for programs.
func (e *every) try(t *testing.T, r commandRow) {
	args := e.args(r)
	if r.do != nil {
		r.do(t, e, args...)
		return
	}
	forPeople := !slices.Contains(args, "--json")
	said := e.run(t, r, r.until, args...)
	for _, want := range r.says {
		if !regexp.MustCompile(want).MatchString(said) {
			t.Errorf("no %s in:\n%s", want, said)
		}
	}
	if r.schema == "" {
		return
	}
	if forPeople {
		until := ""
		if r.until != "" {
			until = `\n`
		}
		said = e.run(t, r, until, append(args, "--json")...)
	}
	if r.until != "" { // the last line may be cut off
		said = said[:strings.LastIndexByte(said, '\n')+1]
	}
	var all []any
	for d := json.NewDecoder(strings.NewReader(said)); ; {
		var one json.RawMessage
		if err := d.Decode(&one); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("%v in:\n%s", err, said)
		}
		matches(t, r.schema, string(one))
		var value any
		must(t, json.Unmarshal(one, &value))
		all = append(all, value)
	}
	if len(all) == 0 {
		t.Error("it prints no JSON")
	}
	for _, name := range r.numbers {
		if sum(all, strings.Split("*."+name, ".")) <= 0 {
			t.Errorf("%s is not above zero in:\n%s", name, said)
		}
	}
}

// sum adds the numbers of a name; * is each of a list, or of an object's values.
func sum(value any, name []string) (n float64) {
	if len(name) == 0 {
		n, _ = value.(float64)
		return n
	}
	switch v := value.(type) {
	case []any:
		for _, one := range v {
			n += sum(one, name[1:])
		}
	case map[string]any:
		for key, one := range v {
			if name[0] == "*" || name[0] == key {
				n += sum(one, name[1:])
			}
		}
	}
	return n
}

// run runs the program in dom0, until it ends or has said something, and returns what it says.
func (e *every) run(t *testing.T, r commandRow, until string, args ...string) string {
	t.Helper()
	cmd := e.Dom0.Command(testContext(t), wire.Exe, args...)
	cmd.Stdin = strings.NewReader(r.stdin)
	out, err := cmd.StdoutPipe()
	must(t, err)
	var errs strings.Builder
	cmd.Stderr = &errs
	must(t, cmd.Start())
	var said strings.Builder
	var met bool
	for b := make([]byte, 1<<16); ; {
		n, err := out.Read(b)
		said.Write(b[:n])
		if !met && until != "" && regexp.MustCompile(until).MatchString(said.String()) {
			met = true
			if r.meanwhile != nil {
				r.meanwhile(t, e, said.String())
			}
			must(t, cmd.Process.Signal(syscall.SIGINT))
		}
		if err != nil {
			break
		}
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if !met && until != "" {
		t.Errorf("no %s before it ended", until)
	}
	if got := cmd.ProcessState.ExitCode(); got != r.status {
		t.Errorf("udrouter %s ended with status %d, want %d\n%s%s", strings.Join(args, " "), got, r.status, said.String(), errs.String())
	}
	if r.status != 0 {
		return errs.String()
	}
	if r.meanwhile != nil && until == "" {
		r.meanwhile(t, e, said.String())
	}
	return said.String()
}

// topOnTerminal looks at the screen until it has guests with rates, and leaves by its key.
func topOnTerminal(t *testing.T, e *every, args ...string) {
	cmd := e.Dom0.Command(testContext(t), "script", "-qec", "stty cols 100 rows 30; exec "+wire.Exe+" "+strings.Join(args, " "), "/dev/null")
	cmd.Env = append(os.Environ(), "TERM=xterm")
	keys, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	screen := regexp.MustCompile(`(?s)one.*two.*three`)
	rate := regexp.MustCompile(`[1-9][0-9.]* ?[kM]`)
	var said strings.Builder
	met := false
	for b := make([]byte, 1<<16); ; {
		n, err := out.Read(b)
		said.Write(b[:n])
		if !met && screen.MatchString(said.String()) && rate.MatchString(said.String()) {
			met = true
			_, err := io.WriteString(keys, "q")
			must(t, err)
		}
		if err != nil {
			break
		}
	}
	must(t, cmd.Wait())
	if !met {
		t.Errorf("the screen has no guests with rates:\n%s", said.String())
	}
}

// lookAtPage asks for the page and for what it shows, as a browser does.
func lookAtPage(t *testing.T, e *every, address string) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: e.Dom0.Dial}}
	get := func(path string) string {
		req, err := http.NewRequestWithContext(testContext(t), http.MethodGet, strings.TrimSpace(address)+path, nil)
		must(t, err)
		resp, err := client.Do(req)
		must(t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		must(t, err)
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%q: %s", path, resp.Status)
		}
		return string(body)
	}
	contains(t, get(""), "<html")
	matches(t, "status", get("v1/status"))
	matches(t, "flows", get("v1/flows?limit=5"))
	contains(t, get("v1/explain?from=domu:one&dst=198.51.100.7&proto=tcp&port=25"), "no-smtp")
}

// takesOver has the next process, which is a service, take over.
func takesOver(t *testing.T, e *every, args ...string) {
	was := status(t, e.proc)
	next := startService(e.t, e.Lab, e.manager.path, nil, nil, args[1:]...)
	next.Socket, next.State = e.proc.Socket, e.state
	<-e.proc.Exited()
	e.proc = next
	e.lives(t, was.Flows.Active)
}

// upgrades has the service restarted by what stands in for systemctl.
func upgrades(t *testing.T, e *every, args ...string) {
	const systemctl = `#!/bin/sh
case $1 in
show) cat %[1]s/pid ;;
restart) touch %[1]s/restart; while [ ! -e %[1]s/restarted ]; do sleep 0.02; done ;;
esac
`
	bin, in := t.TempDir(), func(name string) string { return filepath.Join(e.dir, name) }
	writeFile(t, bin, "systemctl", fmt.Appendf(nil, systemctl, e.dir), 0o755)
	tell := func() { writeFile(t, e.dir, "pid", fmt.Append(nil, e.proc.PID()), 0o644) }
	tell()
	was, socket := status(t, e.proc), e.proc.Socket
	cmd := e.Dom0.Command(testContext(t), wire.Exe, args...)
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	must(t, cmd.Start())
	defer func() { _ = cmd.Process.Kill() }()
	must(t, lab.Await(testContext(t), "the restart", func() (bool, error) { _, err := os.Stat(in("restart")); return err == nil, nil }))
	must(t, e.proc.Stop())
	e.proc = e.manager.start(e.t, e.Lab, "--state", e.state, "--socket", socket)
	e.proc.Socket, e.proc.State = socket, e.state
	tell()
	writeFile(t, e.dir, "restarted", nil, 0o644)
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	contains(t, said.String(), "runs; nobody forwarded for ")
	e.lives(t, was.Flows.Active)
}

// lives tells whether the router goes on with the flows that there were, and forwards.
func (e *every) lives(t *testing.T, flows int) {
	t.Helper()
	s := status(t, e.proc)
	if s.Flows.Active < flows/2 || s.ForeignMAC != 0 {
		t.Errorf("%d flows were there, and %d are; foreign MACs %d", flows, s.Flows.Active, s.ForeignMAC)
	}
	ping(t, e.Guests[0].Node, e.Internet.Addr4())
}
