// Package prometheus tests the examples for Prometheus and Grafana.
package prometheus

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"udrouter/policy"
)

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// names are the metrics that there are, with their labels; router's tests hold METRICS.md against them.
func names(t *testing.T) map[string][]string {
	t.Helper()
	list := map[string][]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(udrouter_[a-z_]+)` \\| [a-z]+ \\| ([a-z, ]*) \\|").FindAllStringSubmatch(read(t, "../../router/METRICS.md"), -1) {
		list[m[1]] = strings.Split(m[2], ", ")
	}
	return list
}

// query is one of the dashboard's, and where it stands.
type query struct{ at, expr string }

// queries are those of the dashboard's panels and annotations, with Grafana's own variables replaced; variables are what it asks for.
func queries(t *testing.T) (list []query, variables string) {
	t.Helper()
	type target struct{ Expr, LegendFormat string }
	var d struct {
		Panels []struct {
			ID                 int
			Title, Description string
			Targets            []target
			GridPos            struct{ X, Y, W, H int }
		}
		Annotations struct{ List []target }
		Templating  struct {
			List []struct {
				Name  string
				Query json.RawMessage
			}
		}
	}
	if err := json.Unmarshal([]byte(read(t, "dashboard.json")), &d); err != nil {
		t.Fatal(err)
	}
	known := []string{"__rate_interval"}
	for _, v := range d.Templating.List {
		known = append(known, v.Name)
		variables += string(v.Query)
	}
	add := func(at string, targets []target) {
		for _, target := range targets {
			expr := regexp.MustCompile(`\$(\w+)`).ReplaceAllStringFunc(target.Expr, func(v string) string {
				if !slices.Contains(known, v[1:]) {
					t.Errorf("%s: there is no variable %s", at, v)
				}
				return map[bool]string{true: "5m", false: ".*"}[v == "$__rate_interval"]
			})
			list = append(list, query{at, expr})
			for _, l := range regexp.MustCompile(`\{\{(\w+)\}\}`).FindAllStringSubmatch(target.LegendFormat, -1) {
				if !strings.Contains(expr, "by (") || !regexp.MustCompile(`by \([^)]*\b`+l[1]+`\b`).MatchString(expr) {
					t.Errorf("%s: its legend has %s, which its query takes away: %s", at, l[0], expr)
				}
			}
		}
	}
	ids := map[int]bool{}
	for _, p := range d.Panels {
		if p.Title == "" || p.Description == "" || len(p.Targets) == 0 || ids[p.ID] || p.GridPos.X+p.GridPos.W > 24 || p.GridPos.W == 0 || p.GridPos.H == 0 {
			t.Errorf("panel %d, %q, is not complete", p.ID, p.Title)
		}
		ids[p.ID] = true
		add(p.Title, p.Targets)
	}
	add("annotations", d.Annotations.List)
	return list, variables
}

// Whatever metric, label and reason dashboard and alerts name is one that a router offers.
func TestNames(t *testing.T) {
	metrics := names(t)
	if len(metrics) < 20 {
		t.Fatalf("METRICS.md has %d metrics", len(metrics))
	}
	var reasons []string
	for r := policy.Reason(1); int(r) < policy.Reasons; r++ {
		reasons = append(reasons, r.String())
	}
	list, variables := queries(t)
	list = append(list, query{"variables", variables}, query{"alerts.yml", read(t, "alerts.yml")}, query{"alerts_test.yml", read(t, "alerts_test.yml")})
	name, label := regexp.MustCompile(`\b(udrouter_[a-z0-9_]+)(?:\{([^}]*)\})?`), regexp.MustCompile(`(\w+)(?:=~?)\\?"([^"\\]*)`)
	for _, q := range list {
		found := name.FindAllStringSubmatch(q.expr, -1)
		if len(found) == 0 && q.at != "variables" {
			t.Errorf("%s: no metric in %s", q.at, q.expr)
		}
		for _, m := range found {
			labels, ok := metrics[m[1]]
			if !ok {
				t.Errorf("%s: there is no metric %s", q.at, m[1])
			}
			for _, l := range label.FindAllStringSubmatch(m[2], -1) {
				if l[1] != "instance" && l[1] != "job" && !slices.Contains(labels, l[1]) {
					t.Errorf("%s: %s has no label %s", q.at, m[1], l[1])
				}
				if l[1] != "reason" {
					continue
				}
				for _, word := range strings.Split(l[2], "|") {
					if !slices.Contains(reasons, word) {
						t.Errorf("%s: there is no reason %q", q.at, word)
					}
				}
			}
		}
	}
}

// promtool runs Prometheus' own checker; where it is not installed the test is skipped (Debian: apt install prometheus).
func promtool(t *testing.T, args ...string) string {
	t.Helper()
	path, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("there is no promtool here")
	}
	out, err := exec.CommandContext(t.Context(), path, args...).CombinedOutput()
	if err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Prometheus takes the alerts and the configuration, and each alert fires when it is to, and only then.
func TestAlerts(t *testing.T) {
	promtool(t, "check", "config", "prometheus.yml")
	promtool(t, "check", "rules", "alerts.yml")
	out := promtool(t, "test", "rules", "alerts_test.yml")
	if !strings.Contains(out, "SUCCESS") {
		t.Error(out)
	}
	tested := read(t, "alerts_test.yml")
	for _, m := range regexp.MustCompile(`alert: (\w+)`).FindAllStringSubmatch(read(t, "alerts.yml"), -1) {
		if !regexp.MustCompile(`alertname: ` + m[1] + `\n\s+exp_alerts`).MatchString(tested) {
			t.Errorf("no test sees %s fire", m[1])
		}
	}
}

// Each query of the dashboard is one that Prometheus parses: promtool reads them as rules.
func TestQueries(t *testing.T) {
	list, _ := queries(t)
	rules := "groups:\n  - name: dashboard\n    rules:\n"
	for i, q := range list {
		rules += fmt.Sprintf("      - {record: 'query%d', expr: '%s'}\n", i, strings.ReplaceAll(q.expr, "'", "''"))
	}
	file := filepath.Join(t.TempDir(), "queries.yml")
	if err := os.WriteFile(file, []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := promtool(t, "check", "rules", file); !strings.Contains(out, fmt.Sprintf("%d rules found", len(list))) {
		t.Error(out)
	}
}
