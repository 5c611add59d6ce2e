package importer

import (
	"slices"
	"strings"

	"udrouter/policy"
)

// mergeFamilies puts the rules of both families into one list. A rule that is in both is written once; others name their family. The order of
// each family's own rules is kept, and that of one to the other means nothing.
func mergeFamilies(c [2]newChain) newChain {
	a, b := c[0].rules, c[1].rules
	out := newChain{dflt: c[0].dflt}
	common := commonLengths(a, b)
	for i, j := 0, 0; i < len(a) || j < len(b); {
		switch {
		case i < len(a) && j < len(b) && sameRule(&a[i], &b[j]):
			r := a[i]
			r.both = true
			r.sources = slices.Compact(slices.Concat(r.sources, b[j].sources))
			out.rules = append(out.rules, r)
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && common[i+1][j] >= common[i][j+1]:
			out.rules = append(out.rules, a[i])
			i++
		default:
			out.rules = append(out.rules, b[j])
			j++
		}
	}
	if c[0].dflt != c[1].dflt { // the one that accepts is a rule, the last
		last := newRule{name: "other-ipv6", action: c[1].dflt.String(), proto: policy.AnyProto, v6: true}
		if c[0].dflt == policy.Accept {
			out.dflt, last = c[1].dflt, newRule{name: "other-ipv4", action: c[0].dflt.String(), proto: policy.AnyProto}
		}
		out.rules = append(out.rules, last)
	}
	for i := range out.rules {
		out.rules[i].nameFamily()
	}
	return out
}

// commonLengths are those of the longest common subsequences of what begins at i and at j. Where the lists are so long that it would
// take too much, nothing counts as common, and rules are only longer than they could be.
func commonLengths(a, b []newRule) [][]uint16 {
	n := make([][]uint16, len(a)+1)
	const most = 1 << 22
	few := (len(a)+1)*(len(b)+1) <= most
	row := make([]uint16, len(b)+1)
	for i := range n {
		if n[i] = row; few {
			n[i] = make([]uint16, len(b)+1)
		}
	}
	for i := len(a) - 1; few && i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if n[i][j] = max(n[i+1][j], n[i][j+1]); sameRule(&a[i], &b[j]) {
				n[i][j] = n[i+1][j+1] + 1
			}
		}
	}
	return n
}

func sameRule(a, b *newRule) bool {
	return a.action == b.action && a.proto == b.proto && a.todo == b.todo && slices.Equal(a.ports, b.ports) && slices.Equal(a.from, b.from) && slices.Equal(a.to, b.to)
}

// nameFamily keeps a rule to its family where nothing in it does: at the end where everyone stands.
func (r *newRule) nameFamily() {
	if r.both || r.proto == policy.ProtoICMP || r.proto == policy.ProtoICMPv6 || namesPrefix(r.from) || namesPrefix(r.to) {
		return
	}
	all := []string{everyone(r.v6).String()}
	if r.from == nil {
		r.from = all
	} else {
		r.to = all
	}
}

func namesPrefix(peers []string) bool {
	return slices.ContainsFunc(peers, func(s string) bool { return s != "uplink" && s != "host" && !strings.HasPrefix(s, "domu:") })
}
