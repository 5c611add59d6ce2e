package main

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"udrouter/config"
	"udrouter/integration/lab"
	"udrouter/integration/live"
	"udrouter/policy"
	"udrouter/router"
)

// testReport is what `udrouter test --json` prints. Fields are only ever added.
type testReport struct {
	File     string              `json:"file"`
	Live     bool                `json:"live"`
	Tests    []router.TestResult `json:"tests"`
	Passed   int                 `json:"passed"`
	Failed   int                 `json:"failed"`
	Coverage router.Coverage     `json:"coverage"`
}

// testFlags are the options of `udrouter test`.
type testFlags struct {
	file, run, junit        string
	coverage, explain, json bool
	live                    bool
}

func testCommand() *cobra.Command {
	var f testFlags
	c := &cobra.Command{
		Use: "test -c FILE [--live]", Args: cobra.MaximumNArgs(1),
		Short: "Run a file's test blocks, and tell which rules none of them meets",
		Long: `Run a file's test blocks, and tell which rules none of them meets.

The policy is asked, as by "explain": the file alone is looked at, not the machine. With --live the file's network is built in namespaces as by "lab",
and the router run in it: TCP connects and carries data, datagrams and echo requests are answered, and what is forged is sent by hand; the packets
have to arrive where they should, and nowhere else, besides what the policy says. The status is 1 when a test fails.`,
		Example: `  udrouter test -c router.hcl --coverage
  udrouter test -c router.hcl --run mail --explain
  udrouter test -c router.hcl --live --junit report.xml`,
		RunE: func(c *cobra.Command, args []string) error {
			if f.live {
				again, err := lab.NeedsReexec()
				if err != nil {
					return err
				}
				if again {
					return exitStatus(lab.Reexec(c.Context(), os.Args[1:]...))
				}
			}
			if err := f.junitFile(args); err != nil {
				return err
			}
			pattern, err := regexp.Compile(f.run)
			if err != nil {
				return fmt.Errorf("--run takes a regular expression: %w", err)
			}
			cfg, err := load(f.file, c.ErrOrStderr())
			if err != nil {
				return err
			}
			if len(cfg.Tests) == 0 {
				return fmt.Errorf("%s has no test block, so that nothing was tested; see router.hcl(5)", f.file)
			}
			cfg.Tests = slices.DeleteFunc(cfg.Tests, func(t policy.TestCase) bool { return !pattern.MatchString(t.Name) })
			if len(cfg.Tests) == 0 && f.run != "" {
				return fmt.Errorf("no test has a name that matches %q", f.run)
			}
			results, err := f.results(c.Context(), cfg)
			if err != nil {
				return err
			}
			return f.report(c.OutOrStdout(), cfg, results)
		},
	}
	configFlag(c, &f.file)
	c.Flags().BoolVar(&f.live, "live", false, "send real packets through a real router, in network namespaces")
	c.Flags().StringVar(&f.run, "run", "", "only the tests whose names match this regular expression")
	c.Flags().BoolVar(&f.coverage, "coverage", false, "list the rules and defaults of the file that no test meets")
	c.Flags().BoolVar(&f.explain, "explain", false, "tell all that was asked about the packets of a test that fails")
	c.Flags().BoolVar(&f.json, "json", false, "print JSON")
	c.Flags().StringVar(&f.junit, "junit", "", "write JUnit's XML to this file; without one, to the standard output, and nothing else there")
	c.Flags().Lookup("junit").NoOptDefVal = toStdout
	c.MarkFlagsMutuallyExclusive("json", "explain")
	c.MarkFlagsMutuallyExclusive("json", "coverage")
	return c
}

// results runs the tests.
func (f *testFlags) results(ctx context.Context, cfg *config.Config) ([]router.TestResult, error) {
	if !f.live {
		return router.RunTests(cfg)
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	return live.Run(ctx, cfg, live.Options{Exe: exe})
}

// toStdout is the file's name that stands for the standard output.
const toStdout = "-"

// junitFile takes the argument for what --junit names: an option that may stand alone takes none itself.
func (f *testFlags) junitFile(args []string) error {
	switch {
	case len(args) == 0:
	case f.junit == toStdout:
		f.junit = args[0]
	default:
		return fmt.Errorf("unknown argument %q", args[0])
	}
	if f.junit == toStdout && (f.json || f.coverage) {
		return errors.New("--junit needs a file where the standard output is for something else: --junit FILE")
	}
	return nil
}

// report writes the results in every form that was asked for. It errs when one failed.
func (f *testFlags) report(out io.Writer, cfg *config.Config, results []router.TestResult) error {
	r := testReport{File: f.file, Live: f.live, Tests: results, Coverage: router.CoverageOf(cfg, results)}
	for _, t := range results {
		if t.Failed == "" {
			r.Passed++
		} else {
			r.Failed++
		}
	}
	if err := f.write(out, &r); err != nil {
		return fmt.Errorf("writing the results: %w", err)
	}
	if r.Failed > 0 {
		return errSaid
	}
	return nil
}

func (f *testFlags) write(out io.Writer, r *testReport) (err error) {
	if f.junit == toStdout {
		return r.writeJUnit(out)
	}
	if f.junit != "" {
		var b strings.Builder
		if err := r.writeJUnit(&b); err != nil {
			return err
		}
		// What people are told does not depend on whether that file can be written.
		defer func() { err = errors.Join(err, os.WriteFile(f.junit, []byte(b.String()), 0o666)) }()
	}
	if f.json {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		return enc.Encode(r)
	}
	var b strings.Builder
	for i := range r.Tests {
		writeTest(&b, &r.Tests[i], f.explain)
	}
	fmt.Fprintf(&b, "%d passed, %d failed\n", r.Passed, r.Failed)
	if f.coverage {
		fmt.Fprintf(&b, "%d of %d rules and defaults are met by a test", r.Coverage.Hit, r.Coverage.Total)
		if len(r.Coverage.Missed) > 0 {
			fmt.Fprintf(&b, "; these are not:")
		}
		fmt.Fprintln(&b)
		for _, d := range r.Coverage.Missed {
			fmt.Fprintf(&b, "  %s\n", d)
		}
	}
	_, err = io.WriteString(out, b.String())
	return err
}

// writeTest writes a line on a test; to one that fails belongs what decided.
func writeTest(w io.Writer, t *router.TestResult, explain bool) {
	if t.Failed == "" {
		fmt.Fprintf(w, "ok    %s\n", t.Name)
		return
	}
	for _, s := range t.Steps {
		if s.Failed == "" {
			continue
		}
		fmt.Fprintf(w, "FAIL  %s, %s: %s", t.Name, s.Source, s.Failed)
		if s.Wrong != nil {
			fmt.Fprintf(w, "; %s to %s: %s", s.Wrong.Src, s.Wrong.Dst, s.Wrong.Decided())
		}
		fmt.Fprintln(w)
		if explain {
			fmt.Fprint(w, indented(s.Answers))
		}
	}
}

// indented is all that was asked about some packets.
func indented(answers []router.Answer) string {
	var b strings.Builder
	for _, a := range answers {
		fmt.Fprintf(&b, "      %s\n", strings.ReplaceAll(a.String(), "\n", "\n      "))
	}
	return b.String()
}

// The elements of JUnit's reports that CI servers read.
type (
	junitSuites struct {
		XMLName  xml.Name `xml:"testsuites"`
		Tests    int      `xml:"tests,attr"`
		Failures int      `xml:"failures,attr"`
		Suites   []junitSuite
	}
	junitSuite struct {
		XMLName  xml.Name `xml:"testsuite"`
		Name     string   `xml:"name,attr"`
		Tests    int      `xml:"tests,attr"`
		Failures int      `xml:"failures,attr"`
		Cases    []junitCase
	}
	junitCase struct {
		XMLName xml.Name      `xml:"testcase"`
		Name    string        `xml:"name,attr"`
		Class   string        `xml:"classname,attr"`
		File    string        `xml:"file,attr"`
		Line    string        `xml:"line,attr,omitempty"`
		Failure *junitFailure `xml:"failure"`
	}
	junitFailure struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
)

func (r *testReport) writeJUnit(w io.Writer) error {
	suite := junitSuite{Name: r.File, Tests: len(r.Tests), Failures: r.Failed}
	for i := range r.Tests {
		t := &r.Tests[i]
		at := strings.LastIndexByte(t.Source, ':')
		c := junitCase{Name: t.Name, Class: r.File, File: t.Source[:max(at, 0)], Line: t.Source[at+1:]}
		if t.Failed != "" {
			var text strings.Builder
			writeTest(&text, t, true)
			c.Failure = &junitFailure{Message: t.Failed, Text: text.String()}
		}
		suite.Cases = append(suite.Cases, c)
	}
	b, err := xml.MarshalIndent(junitSuites{Tests: suite.Tests, Failures: suite.Failures, Suites: []junitSuite{suite}}, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s%s\n", xml.Header, b)
	return err
}
