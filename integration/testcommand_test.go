package integration

import (
	"encoding/json"
	"encoding/xml"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"udrouter/config"
)

// testBlocks are two tests that fail beside the reference's own, which hold: one by a rule, one by a default in one of two families.
const testBlocks = `
test "mail <goes> out" {
  from   = "domu:one"
  dst    = "2001:db8:ffff::7"
  proto  = "tcp"
  port   = 25
  expect = "accept"
}
test "neighbours ask for names" {
  from   = "domu:one"
  to     = "domu:two"
  proto  = "udp"
  port   = 53
  expect = "accept"
}
`

// The command tells what decided on each test that fails, in the forms that people and machines read.
func TestTestCommand(t *testing.T) {
	dir := t.TempDir()
	good := writeFile(t, dir, "router.hcl", config.Reference, 0o644)
	out, errs := command(t, 0, "test", "-c", good)
	if out != "ok    anyone reaches the web server\nok    guests send no mail\n2 passed, 0 failed\n" || errs != "" {
		t.Errorf("got %q, %q", out, errs)
	}
	src := string(config.Reference) + testBlocks
	file := writeFile(t, dir, "wrong.hcl", []byte(src), 0o644)
	at := func(text string) string { return file + ":" + lineOf(src, text) }
	mail := "FAIL  mail <goes> out, " + at(`test "mail`) + ": expected accept, but it is reject; 2001:db8:3:2:1::10 to 2001:db8:ffff::7: reject: egress-policy, " +
		`rule "no-smtp" of egress in untrusted, ` + at(`rule "no-smtp"`) + "\n"
	out, errs = command(t, 1, "test", "-c", file)
	contains(t, out, mail, "drop: ingress-policy, default of ingress in untrusted, "+at("  ingress {"), "2 passed, 2 failed\n")
	if strings.Count(out, "\n") != 5 || errs != "" {
		t.Errorf("not a line each:\n%s%s", out, errs)
	}
	out, _ = command(t, 1, "test", "-c", file, "--run", "^mail", "--explain")
	contains(t, out, mail+"      tcp port 25 from ", "0 passed, 1 failed\n")
	out, _ = command(t, 0, "test", "-c", file, "--run", "^guests")
	contains(t, out, "1 passed, 0 failed\n")

	out, _ = command(t, 1, "test", "-c", file, "--json")
	var r struct {
		Tests []struct {
			Name, Source, Failed string
			Steps                []struct {
				Expect  string
				Answers []struct{ Verdict, Reason, Source, Dst string }
			}
		}
		Passed, Failed int
		Coverage       struct {
			Total, Hit int
			Missed     []struct{ Rule, Chain, Source string }
		}
	}
	must(t, json.Unmarshal([]byte(out), &r))
	if r.Passed != 2 || r.Failed != 2 || len(r.Tests) != 4 || r.Tests[0].Failed != "" || r.Tests[2].Failed == "" || r.Tests[3].Source != at(`test "neigh`) {
		t.Errorf("got %+v", r)
	}
	if s := r.Tests[3].Steps; len(s) != 1 || s[0].Expect != "accept" || len(s[0].Answers) != 2 || s[0].Answers[1].Reason != "ingress-policy" {
		t.Errorf("of two families: %+v", s)
	}

	out, _ = command(t, 1, "test", "-c", file, "--coverage")
	contains(t, out, "4 of 12 rules and defaults are met by a test; these are not:\n", `  accept  rule "ssh" of ingress in untrusted, `+at(`rule "ssh"`)+"\n")
	if c := r.Coverage; c.Total != 12 || c.Hit != 4 || len(c.Missed) != 8 || c.Missed[0].Rule != "ssh" || c.Missed[0].Source != at(`rule "ssh"`) {
		t.Errorf("coverage: %+v", c)
	}

	stdout, _ := command(t, 1, "test", "-c", file, "--junit")
	report := filepath.Join(dir, "report.xml")
	out, _ = command(t, 1, "test", "-c", file, "--junit", report)
	contains(t, out, mail)
	b, err := os.ReadFile(report)
	must(t, err)
	if string(b) != stdout {
		t.Errorf("the report is %q in a file and %q on the standard output", b, stdout)
	}
	var suites struct {
		Tests    int `xml:"tests,attr"`
		Failures int `xml:"failures,attr"`
		Suite    struct {
			Case []struct {
				Name    string `xml:"name,attr"`
				Line    string `xml:"line,attr"`
				Failure *struct {
					Message string `xml:"message,attr"`
					Text    string `xml:",chardata"`
				} `xml:"failure"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	must(t, xml.Unmarshal(b, &suites))
	if c := suites.Suite.Case; suites.Tests != 4 || suites.Failures != 2 || len(c) != 4 || c[0].Failure != nil || c[2].Name != "mail <goes> out" ||
		c[2].Line != lineOf(src, `test "mail`) || c[2].Failure == nil || c[2].Failure.Message != "expected accept, but it is reject" || !strings.Contains(c[2].Failure.Text, mail) {
		t.Errorf("got %+v", suites)
	}

	for args, want := range map[string]string{
		"--run (":                 "regular expression",
		"--run nobody":            `no test has a name that matches "nobody"`,
		"stray":                   `unknown argument "stray"`,
		"--json --junit":          "--junit FILE",
		"--junit " + dir + "/a/b": "no such file",
	} {
		out, errs := command(t, 1, append([]string{"test", "-c", good}, strings.Fields(args)...)...)
		contains(t, errs, want)
		if strings.Contains(args, dir) {
			contains(t, out, "2 passed, 0 failed\n")
		}
	}
	without := writeFile(t, dir, "without.hcl", []byte(withoutTests()), 0o644)
	_, errs = command(t, 1, "test", "-c", without)
	contains(t, errs, "has no test block")
}
