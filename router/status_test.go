package router

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"udrouter/stack"
)

// The rules of host.uplink stand in the status with what they have counted, in the file's order and the default last. What cannot be read is a
// warning, and the rest is told all the same.
func TestStatusOfHostUplink(t *testing.T) {
	s := reference(t)
	sources := []string{at("  uplink {", `rule "ssh"`), at("  uplink {", `rule "icmpv6"`), at("discovery and DHCP pass", "uplink {")}
	for _, c := range []struct {
		name    string
		read    func() ([]HostCount, error)
		want    []HostRuleStatus
		warning string
	}{
		{"nobody to ask", nil, []HostRuleStatus{}, ""},
		{"counters", func() ([]HostCount, error) { return []HostCount{{1, 2}, {3, 4}, {5, 6}}, nil },
			[]HostRuleStatus{{"ssh", "accept", 1, 2, sources[0]}, {"icmpv6", "accept", 3, 4, sources[1]}, {"", "drop", 5, 6, sources[2]}}, ""},
		{"an error", func() ([]HostCount, error) { return nil, errors.New("no such table") }, []HostRuleStatus{}, "no such table"},
		{"other rules", func() ([]HostCount, error) { return make([]HostCount, 2), nil }, []HostRuleStatus{}, "2 counters for 2 rules"},
	} {
		s.HostUplink = c.read
		before := len(s.current.Load().warnings)
		st := s.Status()
		if !slices.Equal(st.HostUplink, c.want) {
			t.Errorf("%s: %+v", c.name, st.HostUplink)
		}
		own := st.Warnings[before:]
		if (len(own) > 0) != (c.warning != "") || c.warning != "" && !strings.Contains(own[0], c.warning) {
			t.Errorf("%s: warnings %q", c.name, st.Warnings)
		}
		if body, err := json.Marshal(st); err != nil || len(c.want) == 0 && !strings.Contains(string(body), `"host_uplink":[]`) || len(st.Domus) != 2 {
			t.Errorf("%s: %s, %v", c.name, body, err)
		}
	}
	without := newSim(t, parseConfig(t, strings.Replace(seedFile, "PROXY", "", 1)), seedKernel())
	without.HostUplink = func() ([]HostCount, error) { return nil, errors.New("asked") }
	if st := without.Status(); len(st.HostUplink) > 0 || len(st.Warnings) > 0 {
		t.Errorf("without host.uplink %v, %q", st.HostUplink, st.Warnings)
	}
}

// Each link says which side it is.
func TestStatusNamesSides(t *testing.T) {
	s := seed(t)
	got := map[string]string{}
	for _, l := range s.Status().Links {
		got[l.Side] = l.Name
	}
	want := map[string]string{"guests": s.links[stack.Guests].Name(), "uplink": s.links[stack.UplinkSide].Name(), "host": s.links[stack.Host].Name()}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
