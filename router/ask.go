package router

import (
	"fmt"
	"slices"
	"strings"

	"udrouter/config"
	"udrouter/policy"
)

// TestResult is what came of a test block. Its JSON is a part of `udrouter test --json`; fields are only ever added.
type TestResult struct {
	Name   string       `json:"name"`
	Source string       `json:"source"`           // file:line
	Failed string       `json:"failed,omitempty"` // why; "" where it holds
	Steps  []StepResult `json:"steps"`
}

// StepResult is what came of one packet of a test, in each family that it is of.
type StepResult struct {
	policy.TestStep `json:"-"`
	Source          string   `json:"source"` // file:line
	Expect          string   `json:"expect"` // "accept", "drop" or "reject"
	Failed          string   `json:"failed,omitempty"`
	Answers         []Answer `json:"answers"`
	Wrong           *Answer  `json:"-"` // that of Answers which is why; nil: it holds, or there is none
}

// RunTests asks a file's test blocks of its policy.
func RunTests(cfg *config.Config) ([]TestResult, error) {
	e, err := NewExplainer(cfg)
	if err != nil {
		return nil, err
	}
	list := []TestResult{}
	for _, t := range cfg.Tests {
		list = append(list, e.Test(t))
	}
	return list, nil
}

// Test asks one test block.
func (e *Explainer) Test(t policy.TestCase) TestResult {
	r := TestResult{Name: t.Name, Source: t.Source}
	var opened *policy.Question
	if t.Open {
		opened = &policy.Question{From: t.From, Src: t.Src, To: t.To, Dst: t.Dst, Proto: t.Proto, Port: t.Port} // as if nothing were forged
	}
	for _, step := range t.Steps() {
		s := StepResult{TestStep: step, Source: step.Source, Expect: step.Expect.String(), Answers: []Answer{}}
		if answers, err := e.explain(step.Question, opened); err != nil {
			s.Failed = err.Error()
		} else {
			s.Answers = answers
		}
		r.Steps = append(r.Steps, s)
	}
	r.Judge()
	return r
}

// Judge tells whether the steps hold, and why not: the policy says otherwise, or, where packets have been sent, what was seen of one. The first that
// fails is why the test does.
func (r *TestResult) Judge() {
	r.Failed = ""
	for i := range r.Steps {
		s := &r.Steps[i]
		for i := range s.Answers {
			if s.Failed != "" {
				break
			}
			a := &s.Answers[i]
			if s.Failed = failure(s.TestStep, *a); s.Failed == "" && a.Live != nil {
				s.Failed = a.Live.failure(s.TestStep, a)
			}
			if s.Failed != "" {
				s.Wrong = a
			}
		}
		if r.Failed == "" {
			r.Failed = s.Failed
		}
	}
}

// failure tells in what a packet's fate is not what a test wants.
func (s *Seen) failure(t policy.TestStep, a *Answer) string {
	word := a.Reason
	if a.By == "dom0" || a.Chain == "uplink" {
		word = "uplink:" + a.Rule
	}
	switch {
	case s.Verdict != t.Expect.String() || s.Wrong != "":
		return fmt.Sprintf("expected %s, but sent for real it is %s", t.Expect, s)
	case t.Rule != "" && t.Expect != policy.Accept && !slices.Contains(s.Counted, word):
		return fmt.Sprintf("expected rule %q to decide, but the router counted no %s; sent for real it is %s", t.Rule, word, s)
	}
	return ""
}

// String is what was seen, in a line.
func (s *Seen) String() string {
	words := []string{s.Verdict}
	for _, w := range []struct{ what, text string }{{"", s.Wrong}, {"seen at ", strings.Join(s.At, ", ")}, {"told by ", s.Told}, {"counted ", strings.Join(s.Counted, ", ")}} {
		if w.text != "" {
			words = append(words, w.what+w.text)
		}
	}
	return strings.Join(words, "; ")
}

// failure tells in what an answer is not the one that a test wants.
func failure(t policy.TestStep, a Answer) string {
	switch {
	case a.Opened != nil && a.Opened.Verdict != policy.Accept.String():
		return fmt.Sprintf("the connection that it answers in is not opened; %s to %s: %s", a.Opened.Src, a.Opened.Dst, a.Opened.Decided())
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

// Decided is what decided on a packet, in a line: what became of it, why, and where that is written.
func (a Answer) Decided() string {
	words := []string{a.Verdict}
	if a.Reason != "" {
		words[0] += ": " + a.Reason
	}
	switch {
	case a.Chain != "" && a.Rule != "":
		words = append(words, fmt.Sprintf("rule %q of %s in %s", a.Rule, a.Chain, a.Policy))
	case a.Chain != "":
		words = append(words, fmt.Sprintf("default of %s in %s", a.Chain, a.Policy))
	default:
		words = append(words, a.By)
	}
	if a.Source != "" {
		words = append(words, a.Source)
	}
	return strings.Join(words, ", ")
}

// Coverage tells which rules and defaults of a file its tests ask. Its JSON is a part of `udrouter test --json`.
type Coverage struct {
	Total  int        `json:"total"`  // rules and defaults of the file
	Hit    int        `json:"hit"`    // those that a test has met
	Missed []Decision `json:"missed"` // the others, in the order of the file
}

// CoverageOf is that of tests which have been asked. A rule is hit where it has decided, or has accepted what another one then decided on: what stands
// behind one that refuses is not asked.
func CoverageOf(cfg *config.Config, results []TestResult) Coverage {
	hit := map[Decision]bool{}
	for _, r := range results {
		for _, s := range r.Steps {
			for _, a := range s.Answers {
				met := a.asked()
				if a.Opened != nil {
					met = append(met, a.Opened.asked()...)
				}
				for _, d := range met {
					hit[d] = true
				}
			}
		}
	}
	c := Coverage{Missed: []Decision{}}
	chain := func(name, chain string, of policy.Chain) {
		count := func(rule, source string, action policy.Action) {
			d := Decision{name, chain, rule, source, action.String()}
			c.Total++
			if hit[d] {
				c.Hit++
			} else {
				c.Missed = append(c.Missed, d)
			}
		}
		for _, r := range of.Rules {
			count(r.Name, r.Source, r.Action)
		}
		count("", of.Source, of.Default)
	}
	for _, p := range cfg.Policies {
		chain(p.Name, "egress", p.Egress)
		chain(p.Name, "ingress", p.Ingress)
	}
	if cfg.Host != nil {
		chain("host", "ingress", cfg.Host.Ingress)
		if cfg.Host.Uplink != nil {
			chain("host", "uplink", *cfg.Host.Uplink)
		}
	}
	return c
}

// asked are the rules that a Router asks about a packet: those before the one that refuses it, and that one. In shadow mode none refuses.
func (a Answer) asked() []Decision {
	for i, d := range a.Steps {
		if a.Verdict != policy.Accept.String() && d.Action == a.Verdict && d == a.Decision {
			return slices.Clone(a.Steps[:i+1])
		}
	}
	return slices.Clone(a.Steps)
}
