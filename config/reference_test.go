package config

import (
	"net/netip"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"udrouter/policy"
)

var sameIPs = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

// sameValues compares what a configuration says, not where it says it.
var sameValues = cmp.Options{
	cmpopts.IgnoreTypes(Range{}),
	cmpopts.IgnoreFields(Config{}, "File"),
	cmpopts.IgnoreFields(policy.Policy{}, "Source"),
	cmpopts.IgnoreFields(policy.Chain{}, "Source"),
	cmpopts.IgnoreFields(policy.Rule{}, "Source"),
	cmpopts.IgnoreFields(policy.TestStep{}, "Source"),
	sameIPs,
}

// The example that the project's users have been given says the same in fewer words.
func TestReferenceIsTheSeedsNetwork(t *testing.T) {
	src, err := os.ReadFile("testdata/good/seed.hcl")
	if err != nil {
		t.Fatal(err)
	}
	want := mustParse(t, "seed.hcl", src)
	got := mustParse(t, "reference.hcl", Reference)
	if diff := cmp.Diff(want, got, sameValues); diff != "" {
		t.Error(diff)
	}
}

// setting is a line of the reference that is commented out: "#" with a word behind it.
var setting = regexp.MustCompile(`^(\s*)#([a-z_}].*)$`)

// uncommented is the reference with one group of settings in force: a line, or a block to its closing brace.
// all puts every group in force. It returns the texts of the groups.
func uncommented(t *testing.T, group int) (src []byte, groups []string) {
	t.Helper()
	lines := strings.Split(string(Reference), "\n")
	open := false
	for i, line := range lines {
		m := setting.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		if !open {
			groups = append(groups, "")
		}
		n := len(groups) - 1
		groups[n] += m[2] + "\n"
		if group == n || group == allGroups {
			lines[i] = m[1] + m[2]
		}
		if strings.HasSuffix(m[2], "{") {
			open = true
		} else if m[2] == "}" {
			open = false
		}
	}
	return []byte(strings.Join(lines, "\n")), groups
}

const allGroups = -1

func TestReferenceSettingsAreNotStale(t *testing.T) {
	plain := mustParse(t, "reference.hcl", Reference)
	_, groups := uncommented(t, allGroups)
	if len(groups) == 0 {
		t.Fatal("no setting is commented out")
	}
	for i, text := range groups {
		src, _ := uncommented(t, i)
		cfg := mustParse(t, "reference.hcl", src)
		if cmp.Equal(plain, cfg, sameValues) {
			t.Errorf("in force, this changes nothing:\n%s", text)
		}
	}
}

func TestReferenceDocumentsEveryKey(t *testing.T) {
	src, _ := uncommented(t, allGroups)
	mustParse(t, "reference.hcl", src)
	file, diags := hclsyntax.ParseConfig(src, "reference.hcl", hcl.InitialPos)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	documented := make(map[string]bool)
	collectPaths(file.Body.(*hclsyntax.Body), "", documented)
	for _, path := range grammarPaths(grammarOf(reflect.TypeFor[rawFile]()), "") {
		if !documented[path] {
			t.Errorf("reference.hcl lacks %s", path)
		}
	}
}

func collectPaths(body *hclsyntax.Body, in string, into map[string]bool) {
	for name := range body.Attributes {
		into[in+name] = true
	}
	for _, b := range body.Blocks {
		into[in+b.Type+" {}"] = true
		collectPaths(b.Body, in+b.Type+".", into)
	}
}

// shared are blocks with the same grammar as another, which documents it: as "what stands for" them.
var shared = map[string]string{
	"host.ingress.rule.":   "policy.egress.rule.",
	"host.uplink.rule.":    "policy.egress.rule.",
	"policy.ingress.rule.": "policy.egress.rule.",
	"test.then.":           "test.",
}

func grammarPaths(g *grammar, in string) []string {
	var paths []string
	at := in
	if s := shared[in]; s != "" {
		at = s
	}
	for _, k := range g.keys {
		paths = append(paths, at+k)
	}
	for _, b := range g.blocks {
		paths = append(paths, in+b.block+" {}")
		paths = append(paths, grammarPaths(b, in+b.block+".")...)
	}
	return paths
}

// A key without a comment above it is one that nobody explains.
func TestReferenceExplainsEveryKeyOnce(t *testing.T) {
	key := regexp.MustCompile(`^\s*#?([a-z_0-9]+)\s+=`)
	explained := make(map[string]bool)
	var above string
	for line := range strings.Lines(string(Reference)) {
		if m := key.FindStringSubmatch(line); m != nil && strings.HasPrefix(strings.TrimSpace(above), "# ") {
			explained[m[1]] = true
		}
		above = line
	}
	for _, path := range grammarPaths(grammarOf(reflect.TypeFor[rawFile]()), "") {
		if name := path[strings.LastIndex(path, ".")+1:]; !strings.HasSuffix(name, "{}") && !explained[name] {
			t.Errorf("no comment stands above %s", path)
		}
	}
}
