package integration

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"udrouter/integration/cases"
)

var update = flag.Bool("update", false, "rewrite the README's table of attacks from a run")

// attackTests are tests that send an attack, beside the rows of package cases or for want of them: floods, what needs time, what is
// between dom0's own parts. Those of other packages are named.
var attackTests = map[int][]func(*testing.T){
	1:  {TestBridge, TestTopologies},
	2:  {TestBridge, TestTopologies},
	3:  {TestDom0IsSilent, TestCasesBesideForwarding, TestDom0OnBridge, TestKernelForwardsAsWell},
	13: {TestGSO},
	14: {TestChecksums},
	15: {TestGSO, TestChecksums},
	24: {TestTopologies},
	32: {TestProxiedARP},
	34: {TestGatewayMoves},
	37: {TestNeighbourFloods},
	49: {TestScan, TestNeighbourFloods},
	50: {TestScan},
	63: {TestErrorShares},
	67: {TestPathMTU},
	71: {TestHostUplink, TestDom0AndGuests},
	72: {TestStateFloods, TestFlowsAreBounded},
}

var attackTestsElsewhere = map[int][]string{
	1:  {"dom0.TestGuestsAreApart", "dom0.TestStrangerPassesNothing"},
	2:  {"dom0.TestForgedMACDies", "dom0.TestLearnedEntriesGo"},
	3:  {"dom0.TestDom0IsOutOfReach", "dom0.TestDom0IsSilentOnTheBridge", "dom0.TestKernelNeitherAnswersNorForwards"},
	8:  {"policy.TestTruncation", "policy.TestShortHeaders", "router.TestTruncated"},
	9:  {"policy.TestEtherTypes"},
	10: {"policy.TestEtherTypes"},
	13: {"policy.TestGSOOfUDP", "router.TestOversize", "router.TestSuperPackets"},
	14: {"policy.TestIPv4HeaderChecksum"},
	15: {"policy.TestPartialChecksum", "router.TestPartialChecksums"},
	17: {"router.TestRandomSources"},
	25: {"router.TestEveryProtocol", "router.TestProtocolSweepIsBounded"},
	26: {"router.TestBindingGrid"},
	28: {"router.TestLinkLocalsAreOfTheirLink"},
	31: {"router.TestNotIsolated"},
	32: {"router.TestProxiedARP", "router.TestProxyARP"},
	34: {"router.TestGatewayMACChange"},
	37: {"router.TestNeighbourFloods", "router.TestAnswerShares"},
	39: {"policy.TestNDLengths"},
	40: {"policy.TestNDLengths", "policy.TestNDOptionsAllocateNothing"},
	42: {"router.TestAnswersToGateway"},
	43: {"router.TestNotIsolated"},
	47: {"policy.TestParse"},
	49: {"router.TestNeighbourFloods"},
	50: {"router.TestSweep", "router.TestScanLearnsNothing", "router.TestOnLinkScan", "router.TestNextHopShares"},
	51: {"router.TestGuardFloods"},
	54: {"router.TestGuardFloods"},
	55: {"router.TestGuardFloods"},
	56: {"policy.TestDHCPOptions", "router.TestGuardFloods"},
	58: {"policy.TestTCPFragments", "policy.TestFragments"},
	59: {"policy.TestFragmentRanges", "policy.TestFragments"},
	61: {"router.TestFragmentFlood", "router.TestFragmentTimeout", "router.TestOwnReassembly", "policy.TestFragmentShares", "policy.TestFragmentAllocatesNothing"},
	63: {"router.TestErrorLimits", "router.TestErrorsOfAllKinds", "router.TestErrorCostVaries", "router.TestErrorsToUplink"},
	64: {"policy.TestNotedHeaders"},
	65: {"policy.TestNotedHeaders", "policy.TestLongChains"},
	67: {"policy.TestRelated", "router.TestFragmentsByTheRouter", "router.TestMTU"},
	70: {"router.TestICMPMatrix"},
	71: {"policy.TestTCP", "policy.TestFlowOracle", "policy.TestPortsAreThere", "router.TestStateTimes", "router.TestReject"},
	72: {"router.TestStateFloods", "policy.TestFlowFlood", "policy.TestFlowBudget", "policy.TestFlowShares", "policy.TestSharesOfFlows"},
}

// source is what an attack or a row refers to: an RFC with its section, one that is about nothing else, or something else that has a name.
var source = regexp.MustCompile(`RFC [0-9]+ [0-9]|RFC (826|1042|1858|3046|3128|5095|6105|6918)\b|CVE-[0-9]+-[0-9]+|IEEE 802|VU#[0-9]+`)

func TestAttacksHaveTests(t *testing.T) {
	rows := map[int]int{}
	for _, c := range cases.All() {
		rows[c.Attack()]++
	}
	known := map[int]bool{0: true}
	for _, a := range cases.Attacks {
		known[a.Number] = true
		sent := rows[a.Number]+len(attackTests[a.Number])+len(attackTestsElsewhere[a.Number]) > 0
		if !sent {
			t.Errorf("attack %d, %s: neither a row nor a test sends it", a.Number, a.Title)
		}
		if !source.MatchString(a.Source) {
			t.Errorf("attack %d, %s, has no source but %q", a.Number, a.Title, a.Source)
		}
		if strings.TrimRight(a.Departs, " .,;:") != a.Departs {
			t.Errorf("attack %d, %s, departs without an end: %q", a.Number, a.Title, a.Departs)
		}
		if !slices.ContainsFunc(cases.Sections, func(s struct{ Letter, Title string }) bool { return s.Letter == a.Section }) {
			t.Errorf("attack %d is in no section", a.Number)
		}
	}
	for _, n := range slices.Concat(slices.Collect(maps.Keys(rows)), slices.Collect(maps.Keys(attackTests)), slices.Collect(maps.Keys(attackTestsElsewhere))) {
		if !known[n] {
			t.Errorf("attack %d is not in the catalogue", n)
		}
	}
	for n, names := range attackTestsElsewhere {
		for _, name := range names {
			if !testExists(t, name) {
				t.Errorf("attack %d is said to be sent by %s, which there is not", n, name)
			}
		}
	}
}

// testExists looks for a test of another package in its source: "dom0.TestX".
func testExists(t *testing.T, name string) bool {
	t.Helper()
	pkg, fn, _ := strings.Cut(name, ".")
	dir := map[string]string{"dom0": "dom0"}[pkg]
	if dir == "" {
		dir = filepath.Join("..", pkg)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	must(t, err)
	return slices.ContainsFunc(files, func(f string) bool { return strings.Contains(readFile(t, f), "\nfunc "+fn+"(t *testing.T)") })
}

// result is what became of an attack's hostile rows.
type result struct {
	rows           int
	kernel, router int // that came through
	kernelTo       harm
}

// Every hostile row is sent for real into two networks: one where dom0's kernel is the router, as the reference sets it up, and one
// with the router under test. The witnesses are the same, and what counts as coming through (see stage.suffer). With the router nothing
// does, and the neighbours' traffic goes on; the README's table tells of both.
func TestAttackTable(t *testing.T) {
	results := map[int]*result{}
	of := func(c cases.Case) *result {
		r := results[c.Attack()]
		if r == nil {
			r = &result{}
			results[c.Attack()] = r
		}
		return r
	}
	kernel := newStage(t, sourceOf(false), true)
	for _, c := range cases.All() {
		if !hostile(c) {
			continue
		}
		t.Run("kernel/"+c.Name, func(t *testing.T) {
			h, what := kernel.suffer(t, c)
			r := of(c)
			r.rows++
			if h != (harm{}) {
				r.kernel++
				r.kernelTo = r.kernelTo.or(h)
				t.Logf("%s: through the kernel to %s\n%s", c.Ref, h, strings.Join(what, "\n"))
			}
		})
	}
	for _, enforced := range []bool{false, true} {
		router := newStage(t, sourceOf(enforced), false)
		for _, c := range cases.All() {
			if !hostile(c) || c.Enforced != enforced {
				continue
			}
			t.Run("udrouter/"+c.Name, func(t *testing.T) {
				if h, what := router.suffer(t, c); h != (harm{}) {
					of(c).router++
					t.Errorf("%s: through udrouter to %s\n%s", c.Ref, h, strings.Join(what, "\n"))
				}
			})
		}
		router.t = t
		router.canary()
		for _, a := range router.lab.Internet.Addrs {
			ping(t, router.honest.Node, a.Addr())
		}
	}
	var all harm
	for _, r := range results {
		all = all.or(r.kernelTo)
	}
	if !all.neighbour || !all.provider || !all.dom0 {
		t.Errorf("at the kernel only %s were reached: a witness that sees nothing there proves nothing", all)
	}
	if !t.Failed() {
		compareTable(t, results)
	}
}

const tableStart, tableEnd = "<!-- attacks: TestAttackTable writes it -->\n", "\n### What it does not stop\n"

// compareTable holds the README's table against a run: what is sent, and that nothing comes through udrouter. What comes through the
// kernel is the kernel's, and may differ in another version.
func compareTable(t *testing.T, results map[int]*result) {
	const readme = "../README.md"
	text := readFile(t, readme)
	head, rest, ok := strings.Cut(text, tableStart)
	old, tail, ok2 := strings.Cut(rest, tableEnd)
	if !ok || !ok2 {
		t.Fatal("README has no table of attacks")
	}
	table := writeTable(results)
	if *update {
		must(t, os.WriteFile(readme, []byte(head+tableStart+table+tableEnd+tail), 0o644))
		return
	}
	was, is := strings.Split(old, "\n"), strings.Split(table, "\n")
	for i := range max(len(was), len(is)) {
		switch {
		case i >= len(was) || i >= len(is) || withoutKernel(was[i]) != withoutKernel(is[i]):
			t.Fatalf("README's table of attacks is out of date: go test ./integration -run TestAttackTable -update\n got %q\nwant %q",
				was[min(i, len(was)-1)], is[min(i, len(is)-1)])
		case was[i] != is[i]:
			t.Logf("this kernel is another than README's: %s", is[i])
		}
	}
}

func withoutKernel(line string) string {
	cells := strings.Split(line, "|")
	if len(cells) < 6 {
		return line
	}
	cells[4] = ""
	return strings.Join(cells, "|")
}

func writeTable(results map[int]*result) string {
	var b strings.Builder
	b.WriteString("| case | attack | rows | through the kernel, to | through udrouter |\n|---|---|---|---|---|\n")
	var sum result
	for _, a := range cases.Attacks {
		r := results[a.Number]
		if r == nil {
			continue
		}
		through := "0"
		if r.kernel > 0 {
			through = fmt.Sprintf("%d: %s", r.kernel, r.kernelTo)
		}
		fmt.Fprintf(&b, "| %d | %s | %d | %s | %d |\n", a.Number, a.Title, r.rows, through, r.router)
		sum.rows, sum.kernel, sum.router = sum.rows+r.rows, sum.kernel+r.kernel, sum.router+r.router
	}
	fmt.Fprintf(&b, "| | all | %d | %d | %d |\n", sum.rows, sum.kernel, sum.router)
	return b.String()
}
