package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"html"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"
	"github.com/charmbracelet/x/exp/teatest/v2"
	"pgregory.net/rapid"

	"udrouter/router"
)

var updateTop = flag.Bool("update-top", false, "write top.svg, page.png and the goldens of top")

// at is a time of top's tests.
func at(seconds int) time.Time { return time.Unix(int64(1000+seconds), 0) }

// busy is a status after so many seconds in which each guest has had traffic of its own.
func busyStatus(seconds uint64) router.Status {
	s := router.Status{Version: "0.1.0", Uptime: float64(11000 + seconds), Drops: map[string]uint64{"mac-binding": 20 * seconds, "egress-policy": 3}, Flows: router.FlowStatus{Active: 1234, Max: 1048576, Offloaded: 56}}
	s.Links = []router.LinkStatus{
		{Name: "udr0", Side: "guests", RxBytes: 125e6 * seconds, TxBytes: 25e6 * seconds},
		{Name: "eth0", Side: "uplink", RxBytes: 25e6 * seconds, TxBytes: 125e6 * seconds},
		{Name: "udrhost", Side: "host", RxBytes: 1500 * seconds, TxBytes: 15e3 * seconds},
	}
	for i, name := range []string{"mail", "web-1", "web-2", "build", "db"} {
		n := uint64(i) * seconds
		s.Domus = append(s.Domus, router.DomuStatus{Name: name, Flows: 7 * i, RxPackets: 1000 * n, TxPackets: 12000 * n, RxBytes: 1e6 * n, TxBytes: 15e6 * n, Reasons: map[string]uint64{}})
	}
	s.Domus[1].Drops, s.Domus[1].Reasons = 20*seconds+3, map[string]uint64{"ip-binding": 20 * seconds, "egress-policy": 3}
	return s
}

// fakeSource is a router that has been asked so often.
type fakeSource struct{ looks uint64 }

func (f *fakeSource) Status() (router.Status, error) {
	f.looks++
	return busyStatus(f.looks), nil
}

func (*fakeSource) Flows(domu string) (router.FlowList, error) {
	return router.FlowList{Matched: 2, Flows: []router.FlowRecord{
		{Domu: domu, Proto: "tcp", Src: "192.0.2.11:40000", Dst: "198.51.100.7:443", State: "established", Bytes: 1500, ReplyBytes: 3e9},
		{Domu: domu, Proto: "udp", Src: "[2001:db8:3:2:1::11]:5353", Dst: "[2001:db8:ffff::7]:53", State: "open", Bytes: 80, ReplyBytes: 200}}}, nil
}

// press sends keys to a screen, and does what comes of it at once, but for waiting.
func press(m *top, keys ...string) {
	codes := map[string]rune{"enter": tea.KeyEnter, "esc": tea.KeyEsc, "up": tea.KeyUp, "down": tea.KeyDown, "pgdown": tea.KeyPgDown, "pgup": tea.KeyPgUp, "home": tea.KeyHome, "end": tea.KeyEnd, "backspace": tea.KeyBackspace}
	for _, k := range keys {
		msg := tea.KeyPressMsg{Text: k, Code: []rune(k)[0]}
		if c, ok := codes[k]; ok {
			msg = tea.KeyPressMsg{Code: c}
		}
		if _, cmd := m.Update(msg); cmd != nil {
			m.Update(cmd())
		}
	}
}

// shown is a screen without colours.
func shown(m *top) string { return ansi.Strip(m.screen()) }

func topAt(width, height int, seconds ...uint64) *top {
	m := newTop(&fakeSource{}, time.Second)
	m.Update(tea.WindowSizeMsg{Width: width, Height: height})
	for _, s := range seconds {
		m.Update(statusMsg{busyStatus(s), at(int(s)), nil})
	}
	return m
}

// The screens of 80x24, as they are: the list and a guest's details.
func TestTopScreens(t *testing.T) {
	list := topAt(80, 24, 1, 2, 3, 5)
	details := topAt(80, 24, 1, 2, 3, 5)
	press(details, "down", "down", "down", "enter")
	help := topAt(80, 24, 1, 2)
	press(help, "?")
	for name, m := range map[string]*top{"list": list, "details": details, "help": help} {
		file := "testdata/top/" + name + ".txt"
		got := trimLines(shown(m))
		if *updateTop {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatalf("%v (go test ./cmd/udrouter -run TestTop -update-top)", err)
		}
		if got != string(want) {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, want)
		}
	}
	picture := svg(shown(list))
	if *updateTop {
		if err := os.WriteFile("top.svg", []byte(picture), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if have, err := os.ReadFile("top.svg"); err != nil || string(have) != picture {
		t.Errorf("top.svg is not that screen: %v (go test ./cmd/udrouter -run TestTop -update-top)", err)
	}
}

// Nothing of the heading and of the help is cut off at 80 columns: with many guests and flows, full links, and an uplink with as long a name as a card's on a bus.
func TestTopIsNotCutOff(t *testing.T) {
	full := func(uplink string, seconds uint64) router.Status {
		s := busyStatus(seconds)
		s.Uptime += 100 * 24 * 3600
		s.Flows = router.FlowStatus{Active: 1048576, Max: 1048576, Offloaded: 1048000}
		s.Drops = map[string]uint64{"mac-binding": 9999 * seconds}
		s.Links[1].Name = uplink
		for i := range s.Links {
			s.Links[i].RxBytes, s.Links[i].TxBytes = 124e6*seconds, 124e6*seconds
		}
		for i := range 200 {
			s.Domus = append(s.Domus, router.DomuStatus{Name: fmt.Sprint("guest", i), Reasons: map[string]uint64{}})
		}
		return s
	}
	for _, uplink := range []string{"eth0", "enp129s0f0", "enp129s0f1np1"} {
		m := newTop(&fakeSource{}, time.Second)
		m.Update(tea.WindowSizeMsg{Width: 80, Height: 24})
		for i := range 2 {
			m.Update(statusMsg{full(uplink, uint64(1+i)), at(1 + i), nil})
		}
		press(m, "?")
		narrow := strings.Split(trimLines(shown(m)), "\n")
		lines := append(m.heading(), topHelp...)
		for i, line := range lines {
			if whole := strings.TrimRight(ansi.Strip(line), " "); narrow[i] != whole {
				t.Errorf("%s: %q of %q", uplink, narrow[i], whole)
			}
		}
		for _, want := range []string{uplink + " 992M/992M", "udrhost 992M/992M", "9999 drops/s"} {
			if !strings.Contains(narrow[1], want) {
				t.Errorf("no %q in %q", want, narrow[1])
			}
		}
	}
	list := topAt(80, 24, 1, 2)
	if line := strings.Split(shown(list), "\n")[1]; !strings.HasPrefix(line, "bit/s in/out") {
		t.Errorf("%q does not say what its numbers are", line)
	}
}

func trimLines(s string) string {
	var b strings.Builder
	for line := range strings.SplitSeq(s, "\n") {
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	return b.String()
}

// svg is a picture of a screen.
func svg(screen string) string {
	const cell, line = 8, 17
	lines := strings.Split(trimLines(screen), "\n")
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="monospace" font-size="13"><rect width="100%%" height="100%%" fill="#111"/>`+"\n", 80*cell+20, len(lines)*line+10)
	for i, text := range lines {
		if text != "" {
			fmt.Fprintf(&b, `<text x="10" y="%d" fill="#ddd" xml:space="preserve" textLength="%d">%s</text>`+"\n", (i+1)*line, ansi.StringWidth(text)*cell, html.EscapeString(text))
		}
	}
	return b.String() + "</svg>\n"
}

// What the keys do to the list: each row is what was pressed, and the guests from the top, the chosen one in brackets.
func TestTopKeys(t *testing.T) {
	for _, c := range []struct {
		name string
		keys []string
		want string
	}{
		{"as it begins: most bits first", nil, "[db] build web-2 web-1 mail"},
		{"down", []string{"down"}, "db [build] web-2 web-1 mail"},
		{"not above the first", []string{"down", "up", "up"}, "[db] build web-2 web-1 mail"},
		{"not below the last", []string{"end", "down", "j"}, "db build web-2 web-1 [mail]"},
		{"by name, the chosen one stays", []string{"down", "n"}, "[build] db mail web-1 web-2"},
		{"by drops", []string{"d"}, "[web-1] build db mail web-2"},
		{"by flows", []string{"f"}, "[db] build web-2 web-1 mail"},
		{"only web", []string{"/", "W", "E", "b", "enter"}, "[web-2] web-1"},
		{"a key that is typed is not obeyed", []string{"/", "q", "backspace", "d", "enter"}, "[db] build"},
		{"the filter is forgotten", []string{"/", "w", "enter", "esc"}, "[db] build web-2 web-1 mail"},
		{"the filter is given up", []string{"/", "w", "esc"}, "[db] build web-2 web-1 mail"},
		{"none is left", []string{"/", "x", "enter", "down", "enter"}, ""},
		{"back from details", []string{"down", "enter", "esc"}, "db [build] web-2 web-1 mail"},
	} {
		m := topAt(80, 24, 1, 2)
		for _, k := range c.keys {
			press(m, k)
			if m.cursor == "" && len(m.list()) > 0 {
				m.cursor = m.list()[m.chosen(m.list())].Name
			}
		}
		if len(c.keys) == 1 && topOrders[m.order].key == c.keys[0] {
			m.cursor = "" // nothing was chosen before
		}
		var names []string
		list := m.list()
		for i, g := range list {
			if i == m.chosen(list) {
				names = append(names, "["+g.Name+"]")
			} else {
				names = append(names, g.Name)
			}
		}
		if got := strings.Join(names, " "); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// Rates are the growth of counters over the time between two looks; a counter that has become less begins anew.
func TestTopRates(t *testing.T) {
	m := topAt(80, 24, 1)
	if g := m.guests["db"]; g.txBits != 0 || len(g.history) != 0 {
		t.Errorf("of one look: %+v", g.rate)
	}
	m.Update(statusMsg{busyStatus(5), at(5), nil})
	if g := m.guests["db"]; g.txBits != 8*4*15e6 || g.rxPackets != 4000 || g.rate.drops != 0 || len(g.history) != 1 {
		t.Errorf("%+v", g.rate)
	}
	if g := m.guests["web-1"]; g.rate.drops != 20 || g.reasons["ip-binding"] != 20 || g.reasons["egress-policy"] != 0 {
		t.Errorf("%+v, %v", g.rate, g.reasons)
	}
	if r := m.links["eth0"]; r.txBits != 1e9 || m.drops != 20 {
		t.Errorf("%+v, drops %v", r, m.drops)
	}
	m.Update(statusMsg{busyStatus(1), at(6), nil}) // another process
	if g := m.guests["db"]; g.txBits != 0 {
		t.Errorf("%+v", g.rate)
	}
	m.Update(statusMsg{err: errors.New("gone\x1b[2J")})
	if s := shown(m); !strings.Contains(s, "gone?[2J") || !strings.Contains(s, "db") {
		t.Errorf("after an error:\n%s", s)
	}
	for i := range 3 * sparkLen {
		m.Update(statusMsg{busyStatus(uint64(7 + i)), at(7 + i), nil})
	}
	if n := len(m.guests["db"].history); n != sparkLen {
		t.Errorf("%d looks are remembered", n)
	}
}

// stopping is a writer that ends what writes to it after so many lines.
type stopping struct {
	strings.Builder
	left int
	stop func()
}

func (w *stopping) Write(b []byte) (int, error) {
	if w.left--; w.left == 0 {
		w.stop()
	}
	return w.Builder.Write(b)
}

// For programs: a line for each look, but the first, of which there are no rates.
func TestTopJSON(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	source := &fakeSource{}
	out := &stopping{left: 3, stop: cancel}
	if err := printRates(ctx, out, source, time.Millisecond); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	var r Rates
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &r); err != nil || len(lines) != 3 || source.looks != 4 {
		t.Fatalf("%v, %d lines of %d looks: %s", err, len(lines), source.looks, out)
	}
	if len(r.Domus) != 5 || r.Domus[4].Name != "db" || r.Domus[4].TxBits <= 0 || r.Domus[0].TxBits != 0 || len(r.Links) != 3 || r.Links[1].TxBits <= 0 || r.Drops <= 0 {
		t.Errorf("%+v", r)
	}
}

// Whatever the size, names and keys: no more lines than the screen has, none wider, nothing that the terminal obeys but colours.
func TestTopFits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		width, height := rapid.IntRange(1, 200).Draw(t, "width"), rapid.IntRange(1, 80).Draw(t, "height")
		m := newTop(&fakeSource{}, time.Second)
		m.Update(tea.WindowSizeMsg{Width: width, Height: height})
		names := rapid.SliceOfN(rapid.String(), 0, 40).Draw(t, "names")
		for i := range 3 {
			s := busyStatus(uint64(1 + i))
			for _, n := range names {
				s.Domus = append(s.Domus, router.DomuStatus{Name: n, TxBytes: rapid.Uint64().Draw(t, "bytes"), Reasons: map[string]uint64{"mac-binding": 1}})
			}
			m.Update(statusMsg{s, at(i), nil})
		}
		for _, k := range rapid.SliceOfN(rapid.SampledFrom([]string{"up", "down", "pgdown", "pgup", "home", "end", "enter", "esc", "/", "b", "d", "n", "?", "p", "w", "backspace"}), 0, 20).Draw(t, "keys") {
			press(m, k)
			view := m.screen()
			lines := strings.Split(view, "\n")
			if len(lines) > max(height, 1) {
				t.Fatalf("%d lines on %d:\n%s", len(lines), height, view)
			}
			for _, l := range lines {
				if ansi.StringWidth(l) > width {
					t.Fatalf("%d columns on %d: %q", ansi.StringWidth(l), width, l)
				}
				if s := ansi.Strip(l); s != plain(s) {
					t.Fatalf("the terminal would obey %q", l)
				}
			}
		}
	})
}

// The program as it runs, with a terminal's input and output: it looks again and again, and ends.
func TestTopRuns(t *testing.T) {
	m := newTop(&fakeSource{}, 5*time.Millisecond)
	tm := teatest.NewTestModel(t, m, teatest.WithInitialTermSize(80, 24))
	has := func(text string) {
		t.Helper()
		teatest.WaitFor(t, tm.Output(), func(b []byte) bool { return strings.Contains(ansi.Strip(string(b)), text) }, teatest.WithDuration(time.Minute), teatest.WithCheckInterval(5*time.Millisecond))
	}
	has("web-1")
	tm.Send(tea.KeyPressMsg{Code: tea.KeyEnter})
	has("198.51.100.7:443")
	tm.Send(tea.KeyPressMsg{Text: "q", Code: 'q'})
	if _, err := io.ReadAll(tm.FinalOutput(t, teatest.WithFinalTimeout(time.Minute))); err != nil {
		t.Error(err)
	}
}
