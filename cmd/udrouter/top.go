package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"udrouter/router"
)

// topFlows is how many flows of a guest are asked for: as many as the largest screens have lines.
const topFlows = 200

func topCommand() *cobra.Command {
	var socket string
	var every time.Duration
	var asJSON bool
	c := &cobra.Command{
		Use: "top", Short: "Watch guests: rates, flows and drops", Args: cobra.NoArgs,
		Long: "Watch guests: what each sends and is sent a second, its flows, and what of its packets is dropped.\n\n" +
			"Enter shows a guest's connections and why its packets are dropped; ? names the other keys.",
		RunE: func(c *cobra.Command, _ []string) error {
			if every < 100*time.Millisecond {
				return errors.New("--every wants a time from 100ms on, such as 2s")
			}
			source := controlSource{c.Context(), socket}
			if asJSON {
				return printRates(c.Context(), c.OutOrStdout(), source, every)
			}
			if !term.IsTerminal(int(os.Stdout.Fd())) || !term.IsTerminal(int(os.Stdin.Fd())) {
				return errors.New("top wants a terminal: `udrouter top --json` is for programs")
			}
			if _, err := askStatus(c.Context(), socket); err != nil { // before the screen is taken
				return err
			}
			_, err := tea.NewProgram(newTop(source, every), tea.WithContext(c.Context())).Run()
			if errors.Is(err, tea.ErrProgramKilled) && c.Context().Err() != nil {
				return nil
			}
			return err
		},
	}
	socketFlags(c, &socket, &asJSON)
	c.Flags().Lookup("json").Usage = "print JSON, a line for each look but the first"
	c.Flags().DurationVar(&every, "every", time.Second, "how often to look")
	return c
}

// topSource is where top has its figures from. Calls may take seconds.
type topSource interface {
	Status() (router.Status, error)
	Flows(domu string) (router.FlowList, error)
}

// controlSource asks a running router.
type controlSource struct {
	ctx    context.Context
	socket string
}

func (s controlSource) Status() (router.Status, error) { return askStatus(s.ctx, s.socket) }

func (s controlSource) Flows(domu string) (l router.FlowList, err error) {
	body, err := askFlows(s.ctx, s.socket, url.Values{"domu": {domu}, "limit": {fmt.Sprint(topFlows)}})
	if err != nil {
		return l, err
	}
	return l, decode(body, &l)
}

// rate is what a guest, or a link, has done a second between the last two looks: rx is what it was sent.
type rate struct{ rxBits, txBits, rxPackets, txPackets, drops float64 }

// Rates are what `udrouter top --json` prints; fields are only ever added. All are per second; rx is what a guest was sent.
type Rates struct {
	At    time.Time   `json:"at"`
	Drops float64     `json:"drops_per_s"`
	Links []NamedRate `json:"links"`
	Domus []NamedRate `json:"domus"`
}

// NamedRate is a link's or a guest's share of Rates; drops of a link are errors.
type NamedRate struct {
	Name      string  `json:"name"`
	RxBits    float64 `json:"rx_bits_per_s"`
	TxBits    float64 `json:"tx_bits_per_s"`
	RxPackets float64 `json:"rx_packets_per_s"`
	TxPackets float64 `json:"tx_packets_per_s"`
	Drops     float64 `json:"drops_per_s"`
}

func (r rate) named(name string) NamedRate {
	return NamedRate{name, r.rxBits, r.txBits, r.rxPackets, r.txPackets, r.drops}
}

// printRates prints rates until ctx ends, or the router does.
func printRates(ctx context.Context, out io.Writer, s topSource, every time.Duration) error {
	m, enc := newTop(s, every), json.NewEncoder(out)
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		status, err := s.Status()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		first := m.at.IsZero()
		m.take(status, time.Now())
		if !first {
			if err := enc.Encode(m.rates()); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

func (m *top) rates() Rates {
	r := Rates{At: m.at, Drops: m.drops, Links: []NamedRate{}, Domus: []NamedRate{}}
	for _, l := range m.status.Links {
		r.Links = append(r.Links, m.links[l.Name].named(l.Name))
	}
	for _, d := range m.status.Domus {
		r.Domus = append(r.Domus, m.guests[d.Name].named(d.Name))
	}
	return r
}

// sparkLen is how many looks a sparkline remembers.
const sparkLen = 120

// guest is a line of the screen.
type topGuest struct {
	router.DomuStatus
	rate
	reasons map[string]float64 // drops a second
	history []float64          // bits a second, both directions, the last at the end
}

// top is the screen. It follows the Elm architecture of package bubbletea: everything goes through Update, on one goroutine.
type top struct {
	source topSource
	every  time.Duration

	width, height int
	status        router.Status
	at            time.Time // of the status; zero: there is none yet
	err           error     // of the last look
	guests        map[string]*topGuest
	links         map[string]rate
	drops         float64

	order  int // of topOrders
	filter string
	typing bool // the filter
	help   bool
	paused bool
	cursor string // the chosen guest, also while it moves
	offset int    // of the list's first line
	domu   string // whose details are shown; "": the list
	flows  router.FlowList
}

func newTop(s topSource, every time.Duration) *top {
	return &top{source: s, every: every, width: 80, height: 24, guests: map[string]*topGuest{}, links: map[string]rate{}}
}

type (
	statusMsg struct {
		status router.Status
		at     time.Time
		err    error
	}
	flowsMsg struct {
		domu  string
		flows router.FlowList
		err   error
	}
	lookMsg struct{}
)

// Init implements tea.Model.
func (m *top) Init() tea.Cmd { return m.look }

// look asks for the status.
func (m *top) look() tea.Msg {
	s, err := m.source.Status()
	return statusMsg{s, time.Now(), err}
}

// lookAtFlows asks for the flows of the guest whose details are shown.
func (m *top) lookAtFlows() tea.Cmd {
	domu := m.domu
	return func() tea.Msg {
		l, err := m.source.Flows(domu)
		return flowsMsg{domu, l, err}
	}
}

// Update implements tea.Model.
func (m *top) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case lookMsg:
		if m.paused {
			return m, m.later()
		}
		return m, m.look
	case statusMsg:
		if m.err = msg.err; m.err == nil {
			m.take(msg.status, msg.at)
		}
		if m.domu != "" && m.err == nil {
			return m, tea.Batch(m.later(), m.lookAtFlows())
		}
		return m, m.later()
	case flowsMsg:
		if msg.domu == m.domu {
			if m.err = msg.err; m.err == nil {
				m.flows = msg.flows
			}
		}
	case tea.KeyPressMsg:
		return m.key(msg)
	}
	return m, nil
}

func (m *top) later() tea.Cmd { return tea.Tick(m.every, func(time.Time) tea.Msg { return lookMsg{} }) }

// take goes on with a newer status.
func (m *top) take(s router.Status, at time.Time) {
	seconds := at.Sub(m.at).Seconds()
	if m.at.IsZero() || seconds <= 0 {
		seconds = 0
	}
	links := map[string]rate{}
	for _, l := range s.Links {
		for _, was := range m.status.Links {
			if was.Name == l.Name {
				links[l.Name] = rate{8 * per(was.RxBytes, l.RxBytes, seconds), 8 * per(was.TxBytes, l.TxBytes, seconds), per(was.RxPackets, l.RxPackets, seconds),
					per(was.TxPackets, l.TxPackets, seconds), per(was.Errors, l.Errors, seconds)}
			}
		}
	}
	m.drops = 0
	for reason, n := range s.Drops {
		m.drops += per(m.status.Drops[reason], n, seconds)
	}
	guests := map[string]*topGuest{}
	for _, d := range s.Domus {
		g := &topGuest{DomuStatus: d, reasons: map[string]float64{}}
		if was := m.guests[d.Name]; was != nil {
			g.rate = rate{8 * per(was.RxBytes, d.RxBytes, seconds), 8 * per(was.TxBytes, d.TxBytes, seconds), per(was.RxPackets, d.RxPackets, seconds),
				per(was.TxPackets, d.TxPackets, seconds), per(was.Drops, d.Drops, seconds)}
			for reason, n := range d.Reasons {
				g.reasons[reason] = per(was.Reasons[reason], n, seconds)
			}
			g.history = append(was.history[max(len(was.history)-sparkLen+1, 0):], g.rxBits+g.txBits)
		}
		guests[d.Name] = g
	}
	m.status, m.at, m.links, m.guests = s, at, links, guests
}

// per is how much a counter has grown a second. One that has become less belongs to another process, or another guest of the name.
func per(was, is uint64, seconds float64) float64 {
	if is < was || seconds == 0 {
		return 0
	}
	return float64(is-was) / seconds
}
