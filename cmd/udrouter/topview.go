package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/x/ansi"

	"udrouter/router"
)

// topFixed is how many lines of the screen are not the list's: three above, its heading, and the keys.
const topFixed = 5

var (
	styleHead   = lipgloss.NewStyle().Bold(true)
	styleChosen = lipgloss.NewStyle().Reverse(true)
	styleWarn   = lipgloss.NewStyle().Foreground(lipgloss.Color("1"))
	styleDim    = lipgloss.NewStyle().Faint(true)
	styleSpark  = lipgloss.NewStyle().Foreground(lipgloss.Color("6"))
)

// View implements tea.Model.
func (m *top) View() tea.View { return tea.View{Content: m.screen(), AltScreen: true} }

// screen is as many lines as the terminal has, none longer than it is wide.
func (m *top) screen() string {
	lines := m.heading()
	switch {
	case m.help:
		lines = append(lines, topHelp...)
	case m.domu != "":
		lines = append(lines, m.details()...)
	default:
		lines = append(lines, m.table()...)
	}
	lines = lines[:min(len(lines), max(m.height-1, 0))]
	for len(lines) < m.height-1 {
		lines = append(lines, "")
	}
	lines = append(lines, m.keys())
	for i := range lines {
		lines[i] = ansi.Truncate(lines[i], m.width, "")
	}
	return strings.Join(lines, "\n")
}

var topHelp = []string{
	"", "  up, down, pgup, pgdown    choose a guest", "  enter                     its connections, and why its packets are dropped", "  esc                       back; in the list, forget the filter",
	"  /                         show only guests whose name has this in it", "  b r t f d n               order by bits, rx, tx, flows, drops, name", "  p                         stop looking, and go on", "  q                         end",
	"", "  RX is what a guest is sent, TX what it sends. Of a link it is what comes in", "  and what goes out. A super-packet of TCP or UDP counts once.",
}

// heading are the first three lines: the router and its links.
func (m *top) heading() []string {
	s := m.status
	if m.at.IsZero() {
		return []string{styleHead.Render("udrouter"), m.trouble(), ""}
	}
	first := fmt.Sprintf("%s  up %s  %d guests  %s of %s flows, %s in kernel", styleHead.Render("udrouter "+plain(s.Version)), since(s.Uptime), len(s.Domus),
		count(float64(s.Flows.Active)), count(float64(s.Flows.Max)), count(float64(s.Flows.Offloaded)))
	return []string{first, m.linkLine(), m.trouble()}
}

// linkLine is what comes in by each link, and goes out. Where it would be too long, it leaves out what it is that it says.
func (m *top) linkLine() string {
	var list []string
	for _, l := range m.status.Links {
		r := m.links[l.Name]
		text := fmt.Sprintf("%s %s/%s", plain(l.Name), scaled(r.rxBits), scaled(r.txBits))
		if r.drops > 0 {
			text += styleWarn.Render(fmt.Sprintf(" %s errors/s", count(r.drops)))
		}
		list = append(list, text)
	}
	drops := count(m.drops) + " drops/s"
	if m.drops > 0 {
		drops = styleWarn.Render(drops)
	}
	line := strings.Join(append(list, drops), "  ")
	if said := "bit/s in/out  " + line; ansi.StringWidth(said) <= m.width {
		return said
	}
	return line
}

// since is how long something has gone on: in seconds, and after a day in days and hours.
func since(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	if d < 24*time.Hour {
		return d.Round(time.Second).String()
	}
	return fmt.Sprintf("%dd%dh", d/(24*time.Hour), d/time.Hour%24)
}

// trouble is what is wrong, or that nothing new is looked at.
func (m *top) trouble() string {
	switch {
	case m.err != nil:
		return styleWarn.Render(plain(m.err.Error()))
	case m.paused:
		return styleDim.Render("stopped; p goes on")
	case len(m.status.Warnings) > 0:
		return styleWarn.Render(fmt.Sprintf("%d warnings (udrouter status): %s", len(m.status.Warnings), plain(m.status.Warnings[0])))
	}
	return ""
}

// table is the list of guests.
func (m *top) table() []string {
	const format = "%s %10s %10s %8s %8s %7s %8s  "
	name := min(max(m.width-66, 10), 24)
	lines := []string{styleHead.Render(fmt.Sprintf(format, pad("DOMU", name), "RX BIT/S", "TX BIT/S", "RX P/S", "TX P/S", "FLOWS", "DROPS/S"))}
	list := m.list()
	at, rows := m.chosen(list), max(m.height-topFixed, 1)
	m.offset = max(min(m.offset, at, len(list)-rows), at-rows+1, 0)
	for i := m.offset; i < min(m.offset+rows, len(list)); i++ {
		g := list[i]
		line := fmt.Sprintf(format, pad(plain(g.Name), name), scaled(g.rxBits), scaled(g.txBits), count(g.rxPackets), count(g.txPackets), count(float64(g.Flows)), count(g.rate.drops))
		spark := sparkline(g.history, max(m.width-ansi.StringWidth(line), 0))
		switch {
		case i == at:
			line = styleChosen.Render(line + spark)
		case g.rate.drops > 0:
			line = styleWarn.Render(line) + styleSpark.Render(spark)
		default:
			line += styleSpark.Render(spark)
		}
		lines = append(lines, line)
	}
	if len(list) == 0 {
		lines = append(lines, styleDim.Render("no guest"))
	}
	return lines
}

// details are a guest's drops and flows.
func (m *top) details() []string {
	g := m.guests[m.domu]
	if g == nil {
		return []string{styleHead.Render(plain(m.domu)), "it is not there any more"}
	}
	line := fmt.Sprintf("%s  rx %s  tx %s  %d flows  ", styleHead.Render(plain(g.Name)), bitsOf(g.rxBits), bitsOf(g.txBits), g.Flows)
	lines := []string{line + styleSpark.Render(sparkline(g.history, max(m.width-ansi.StringWidth(line), 0))), ""}
	reasons := slices.SortedFunc(maps.Keys(g.Reasons), func(a, b string) int {
		return cmp.Or(cmp.Compare(g.reasons[b], g.reasons[a]), cmp.Compare(g.Reasons[b], g.Reasons[a]), cmp.Compare(a, b))
	})
	rest := max(m.height-topFixed-3, 2)
	if len(reasons) > 0 {
		lines = append(lines, styleHead.Render(fmt.Sprintf("%-22s %12s %10s", "DROPPED", "PACKETS", "PER S")))
		for _, r := range reasons[:min(len(reasons), max(rest/3, 1))] {
			text := fmt.Sprintf("%-22s %12d %10s", plain(r), g.Reasons[r], count(g.reasons[r]))
			if g.reasons[r] > 0 {
				text = styleWarn.Render(text)
			}
			lines = append(lines, text)
		}
		lines = append(lines, "")
	}
	wide := max((m.width-42)/2, 16)
	lines = append(lines, styleHead.Render(fmt.Sprintf("%-7s %s %s %-11s %8s %8s", "PROTO", pad("SOURCE", wide), pad("DESTINATION", wide), "STATE", "SENT", "REPLIED")))
	for _, f := range m.flows.Flows {
		lines = append(lines, flowLine(f, wide))
	}
	if len(m.flows.Flows) == 0 {
		lines = append(lines, styleDim.Render("no flows"))
	}
	return lines
}

func flowLine(f router.FlowRecord, wide int) string {
	return fmt.Sprintf("%s %s %s %s %8s %8s", pad(f.Proto, 7), pad(f.Src, wide), pad(f.Dst, wide), pad(f.State, 11), shortBytes(f.Bytes), shortBytes(f.ReplyBytes))
}

// keys is the last line.
func (m *top) keys() string {
	switch {
	case m.typing:
		return "/" + plain(m.filter) + "_"
	case m.help:
		return styleDim.Render("? back  q end")
	case m.domu != "":
		return styleDim.Render("esc back  p stop  ? keys  q end")
	}
	text := "by " + topOrders[m.order].name
	if m.filter != "" {
		text += ", only " + plain(m.filter)
	}
	return styleDim.Render(text + "  enter details  / filter  ? keys  q end")
}

// plain is text of others without what a terminal would obey.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

// pad makes text n columns wide.
func pad(s string, n int) string {
	s = ansi.Truncate(s, n, "~")
	return s + strings.Repeat(" ", max(n-ansi.StringWidth(s), 0))
}

// count is a number in at most five columns, with decimal units (SI).
func count(v float64) string {
	if v < 9999.5 {
		return fmt.Sprintf("%.0f", v)
	}
	return scaled(v)
}

func scaled(v float64) string {
	const units = "kMGTPE"
	i := -1
	for ; v >= 999.5 && i < len(units)-1; i++ {
		v /= 1000
	}
	digits := 0
	if v < 9.95 && i >= 0 {
		digits = 1
	}
	text := fmt.Sprintf("%.*f", digits, v)
	if i >= 0 {
		text += units[i : i+1]
	}
	return text
}

// bitsOf is a number of bits a second.
func bitsOf(v float64) string { return scaled(v) + "bit/s" }

func shortBytes(n uint64) string { return scaled(float64(n)) + "B" }

// sparkline draws the last n values, by their share of the largest.
func sparkline(values []float64, n int) string {
	steps := []rune("▁▂▃▄▅▆▇█")
	values = values[max(len(values)-n, 0):]
	most := 0.0
	for _, v := range values {
		most = max(most, v)
	}
	var b strings.Builder
	for _, v := range values {
		step := 0
		if most > 0 {
			step = min(int(v/most*float64(len(steps))), len(steps)-1)
		}
		b.WriteRune(steps[step])
	}
	return b.String()
}
