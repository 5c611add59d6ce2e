package router

import (
	"fmt"
	"slices"

	"udrouter/config"
	"udrouter/policy"
)

// TestResult is what came of a test block.
type TestResult struct {
	policy.TestCase
	Answers []Answer // one for each family
	Failed  string   // why; "" where it holds
}

// RunTests asks a file's test blocks of its policy.
func RunTests(cfg *config.Config) ([]TestResult, error) {
	e, err := NewExplainer(cfg)
	if err != nil {
		return nil, err
	}
	var list []TestResult
	for _, t := range cfg.Tests {
		r := TestResult{TestCase: t}
		if r.Answers, err = e.Explain(t.Question); err != nil {
			r.Failed = err.Error()
		}
		for _, a := range r.Answers {
			if r.Failed == "" {
				r.Failed = failure(t, a)
			}
		}
		list = append(list, r)
	}
	return list, nil
}

// failure tells in what an answer is not the one that a test wants.
func failure(t policy.TestCase, a Answer) string {
	switch {
	case a.Verdict != t.Expect.String() && a.Verdict == policy.Accept.String() && a.Shadow != nil:
		return fmt.Sprintf("expected %s, but it passes: a policy in shadow mode refuses nothing", t.Expect)
	case a.Verdict != t.Expect.String():
		return fmt.Sprintf("expected %s, but it is %s", t.Expect, a.Verdict)
	case t.Rule == "" || a.Rule == t.Rule:
		return ""
	case t.Expect == policy.Accept && slices.ContainsFunc(a.Steps, func(d Decision) bool { return d.Rule == t.Rule }): // a rule of either end
		return ""
	}
	return fmt.Sprintf("expected rule %q to decide", t.Rule)
}
