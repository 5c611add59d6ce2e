package main

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"udrouter/integration/cases"
	"udrouter/integration/wire"
)

// attackTests are tests that send an attack, beside the rows of package cases or for want of them: floods, what needs time, what is
// between dom0's own parts.
var attackTests = map[int][]string{
	1:  {"integration.TestBridge", "integration.TestTopologies", "dom0.TestGuestsAreApart", "dom0.TestStrangerPassesNothing"},
	2:  {"integration.TestBridge", "integration.TestTopologies", "dom0.TestForgedMACDies", "dom0.TestLearnedEntriesGo"},
	3:  {"integration.TestDom0IsSilent", "integration.TestCasesBesideForwarding", "integration.TestDom0OnBridge", "integration.TestKernelForwardsAsWell", "dom0.TestDom0IsOutOfReach", "dom0.TestDom0IsSilentOnTheBridge", "dom0.TestKernelNeitherAnswersNorForwards"},
	8:  {"policy.TestTruncation", "policy.TestShortHeaders", "router.TestTruncated"},
	9:  {"policy.TestEtherTypes"},
	10: {"policy.TestEtherTypes"},
	13: {"integration.TestGSO", "policy.TestGSOOfUDP", "router.TestOversize", "router.TestSuperPackets"},
	14: {"integration.TestChecksums", "policy.TestIPv4HeaderChecksum"},
	15: {"integration.TestGSO", "integration.TestChecksums", "policy.TestPartialChecksum", "router.TestPartialChecksums"},
	17: {"router.TestRandomSources"},
	24: {"integration.TestTopologies"},
	25: {"router.TestEveryProtocol", "router.TestProtocolSweepIsBounded"},
	26: {"router.TestBindingGrid"},
	28: {"router.TestLinkLocalsAreOfTheirLink"},
	31: {"router.TestNotIsolated"},
	32: {"integration.TestProxiedARP", "router.TestProxiedARP", "router.TestProxyARP"},
	34: {"integration.TestGatewayMoves", "router.TestGatewayMACChange"},
	37: {"integration.TestNeighbourFloods", "router.TestNeighbourFloods", "router.TestAnswerShares"},
	39: {"policy.TestNDLengths"},
	40: {"policy.TestNDLengths", "policy.TestNDOptionsAllocateNothing"},
	42: {"router.TestAnswersToGateway"},
	43: {"router.TestNotIsolated"},
	47: {"policy.TestParse"},
	49: {"integration.TestScan", "integration.TestNeighbourFloods", "router.TestNeighbourFloods"},
	50: {"integration.TestScan", "router.TestSweep", "router.TestScanLearnsNothing", "router.TestOnLinkScan", "router.TestNextHopShares"},
	51: {"router.TestGuardFloods"},
	54: {"router.TestGuardFloods"},
	55: {"router.TestGuardFloods"},
	56: {"policy.TestDHCPOptions", "router.TestGuardFloods"},
	58: {"policy.TestTCPFragments", "policy.TestFragments"},
	59: {"policy.TestFragmentRanges", "policy.TestFragments"},
	61: {"router.TestFragmentFlood", "router.TestFragmentTimeout", "router.TestOwnReassembly", "policy.TestFragmentShares", "policy.TestFragmentAllocatesNothing"},
	63: {"integration.TestErrorShares", "router.TestErrorLimits", "router.TestErrorsOfAllKinds", "router.TestErrorCostVaries", "router.TestErrorsToUplink"},
	64: {"policy.TestNotedHeaders"},
	65: {"policy.TestNotedHeaders", "policy.TestLongChains"},
	67: {"integration.TestPathMTU", "policy.TestRelated", "router.TestFragmentsByTheRouter", "router.TestMTU"},
	70: {"router.TestICMPMatrix"},
	71: {"integration.TestHostUplink", "integration.TestDom0AndGuests", "policy.TestTCP", "policy.TestFlowOracle", "policy.TestPortsAreThere", "router.TestStateTimes", "router.TestReject"},
	72: {"integration.TestStateFloods", "integration.TestFlowsAreBounded", "router.TestStateFloods", "policy.TestFlowFlood", "policy.TestFlowBudget", "policy.TestFlowShares", "policy.TestSharesOfFlows"},
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
		sent := rows[a.Number]+len(attackTests[a.Number]) > 0
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
	for _, n := range slices.Concat(slices.Collect(maps.Keys(rows)), slices.Collect(maps.Keys(attackTests))) {
		if !known[n] {
			t.Errorf("attack %d is not in the catalogue", n)
		}
	}
	for n, names := range attackTests {
		for _, name := range names {
			if !testExists(t, name) {
				t.Errorf("attack %d is said to be sent by %s, which there is not", n, name)
			}
		}
	}
}

// testExists looks for a test in its package's source: "dom0.TestX".
func testExists(t *testing.T, name string) bool {
	t.Helper()
	pkg, fn, _ := strings.Cut(name, ".")
	dir := filepath.Join("../..", pkg)
	if _, err := os.Stat(dir); err != nil {
		dir = filepath.Join("..", pkg)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	wire.Must(t, err)
	return slices.ContainsFunc(files, func(f string) bool {
		b, err := os.ReadFile(f)
		wire.Must(t, err)
		return strings.Contains(string(b), "\nfunc "+fn+"(t *testing.T)")
	})
}
