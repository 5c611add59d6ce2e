package main

import (
	"cmp"
	"slices"
	"strings"

	tea "charm.land/bubbletea/v2"
)

// topOrders are the orders of the list, by the key that chooses them.
var topOrders = []struct {
	key, name string
	compare   func(a, b *topGuest) int
}{
	{"b", "bits", func(a, b *topGuest) int { return cmp.Compare(b.rxBits+b.txBits, a.rxBits+a.txBits) }},
	{"r", "rx", func(a, b *topGuest) int { return cmp.Compare(b.rxBits, a.rxBits) }},
	{"t", "tx", func(a, b *topGuest) int { return cmp.Compare(b.txBits, a.txBits) }},
	{"f", "flows", func(a, b *topGuest) int { return cmp.Compare(b.Flows, a.Flows) }},
	{"d", "drops", func(a, b *topGuest) int {
		return cmp.Or(cmp.Compare(b.rate.drops, a.rate.drops), cmp.Compare(b.DomuStatus.Drops, a.DomuStatus.Drops))
	}},
	{"n", "name", func(a, b *topGuest) int { return 0 }},
}

// list are the guests that the filter lets through, in order; those that are equal by name.
func (m *top) list() (list []*topGuest) {
	want := strings.ToLower(m.filter)
	for _, g := range m.guests {
		if strings.Contains(strings.ToLower(g.Name), want) {
			list = append(list, g)
		}
	}
	slices.SortFunc(list, func(a, b *topGuest) int { return cmp.Or(topOrders[m.order].compare(a, b), cmp.Compare(a.Name, b.Name)) })
	return list
}

// chosen is the place of the cursor in a list; the first where its guest is not there.
func (m *top) chosen(list []*topGuest) int {
	return max(slices.IndexFunc(list, func(g *topGuest) bool { return g.Name == m.cursor }), 0)
}

// key does what a key says.
func (m *top) key(msg tea.KeyPressMsg) (tea.Model, tea.Cmd) {
	k := msg.String()
	if k == "ctrl+c" {
		return m, tea.Quit
	}
	if m.typing {
		m.edit(msg)
		return m, nil
	}
	m.help = k == "?" && !m.help
	switch k {
	case "q":
		return m, tea.Quit
	case "p", "space":
		m.paused = !m.paused
	case "esc", "backspace", "left":
		if m.domu == "" {
			m.filter = ""
		}
		m.domu = ""
	}
	if m.domu == "" {
		return m, m.listKey(k)
	}
	return m, nil
}

// listKey does what a key says in the list.
func (m *top) listKey(k string) tea.Cmd {
	list := m.list()
	at := m.chosen(list)
	page := max(m.height-topFixed, 1)
	switch k {
	case "/":
		m.typing = true
	case "up", "k":
		at--
	case "down", "j":
		at++
	case "pgup":
		at -= page
	case "pgdown":
		at += page
	case "home", "g":
		at = 0
	case "end", "G":
		at = len(list) - 1
	case "enter", "right":
		if len(list) > 0 {
			m.domu, m.cursor = list[at].Name, list[at].Name
			m.flows.Flows, m.flows.Matched = nil, 0
			return m.lookAtFlows()
		}
	default:
		for i, o := range topOrders {
			if o.key == k {
				m.order, m.offset = i, 0
				return nil
			}
		}
	}
	if len(list) > 0 {
		m.cursor = list[min(max(at, 0), len(list)-1)].Name
	}
	return nil
}

// maxFilter is how long a filter may be: a guest's name.
const maxFilter = 64

// edit changes the filter.
func (m *top) edit(msg tea.KeyPressMsg) {
	switch msg.String() {
	case "enter":
		m.typing = false
	case "esc":
		m.typing, m.filter = false, ""
	case "backspace":
		r := []rune(m.filter)
		m.filter = string(r[:max(len(r)-1, 0)])
	default:
		if len(m.filter) < maxFilter {
			m.filter += msg.Text
		}
	}
}
