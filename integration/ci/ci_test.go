// Package ci has examples for repositories in which a router.hcl is kept.
package ci

import (
	"bytes"
	"encoding/xml"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"udrouter/config"
)

// workflow is what of GitHub's workflows the example has; other keys are refused, such as a misspelt one.
type workflow struct {
	Name string
	On   []string
	Jobs map[string]struct {
		RunsOn string `yaml:"runs-on"`
		Steps  []struct {
			Uses, Run, If string
			With          map[string]string
		}
	}
}

// pipeline is what of GitLab's jobs the example has.
type pipeline struct {
	Stages []string
	Jobs   map[string]struct {
		Extends, Stage, Image string
		Tags                  []string
		BeforeScript          []string `yaml:"before_script"`
		Script                []string
		Artifacts             struct {
			When    string
			Reports map[string]string
		}
	} `yaml:",inline"`
}

// job is what a machine runs one line after the other, in a checkout of its own, and the files that are kept of it.
type job struct {
	name  string
	lines []string
	keeps []string // patterns
}

func read(t *testing.T, name string, into any) {
	t.Helper()
	src, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	d := yaml.NewDecoder(bytes.NewReader(src))
	d.KnownFields(true)
	if err := d.Decode(into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

func github(t *testing.T) (jobs []job) {
	var w workflow
	read(t, "github.yml", &w)
	if !slices.Equal(w.On, []string{"push", "pull_request"}) {
		t.Errorf("it runs on %q", w.On)
	}
	for name, j := range w.Jobs {
		out := job{name: "GitHub's " + name}
		if !strings.HasPrefix(j.RunsOn, "ubuntu-") {
			t.Errorf("%s runs on %q", name, j.RunsOn)
		}
		for i, s := range j.Steps {
			switch {
			case i == 0 && !strings.HasPrefix(s.Uses, "actions/checkout@"):
				t.Errorf("%s: the first step checks out: %+v", name, s)
			case (s.Uses == "") == (s.Run == ""):
				t.Errorf("%s: a step runs something or uses something: %+v", name, s)
			case strings.HasPrefix(s.Uses, "actions/upload-artifact@"):
				if s.If != "always()" {
					t.Errorf("%s: reports of tests that have failed are not kept: %+v", name, s)
				}
				out.keeps = append(out.keeps, s.With["path"])
			case s.Run != "":
				out.lines = append(out.lines, s.Run)
			}
		}
		jobs = append(jobs, out)
	}
	return jobs
}

func gitlab(t *testing.T) (jobs []job) {
	var p pipeline
	read(t, "gitlab-ci.yml", &p)
	for name, j := range p.Jobs {
		if strings.HasPrefix(name, ".") {
			continue
		}
		base, ok := p.Jobs[j.Extends]
		if !ok || !slices.Contains(p.Stages, base.Stage) || base.Image == "" {
			t.Errorf("%s extends %q, of stage %q and image %q", name, j.Extends, base.Stage, base.Image)
		}
		if j.Artifacts.When != "always" {
			t.Errorf("%s: reports of tests that have failed are not kept", name)
		}
		jobs = append(jobs, job{"GitLab's " + name, append(slices.Clone(base.BeforeScript), j.Script...), []string{j.Artifacts.Reports["junit"]}})
	}
	return jobs
}

// elsewhere tells lines that are not run here: they download, or load the machine's modules.
func elsewhere(line string) bool {
	return strings.Contains(line, "apt-get ") || strings.HasPrefix(line, "sudo modprobe ")
}

// shell is a machine as the jobs find it: bash that ends at the first error, with udrouter installed and a checkout.
type shell struct{ bin, dir string }

func newShell(t *testing.T, exe string, router []byte) shell {
	s := shell{t.TempDir(), t.TempDir()}
	for path, text := range map[string]string{filepath.Join(s.bin, "sudo"): "#!/bin/sh\nexec \"$@\"\n", filepath.Join(s.dir, "router.hcl"): string(router)} {
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(exe, filepath.Join(s.bin, "udrouter")); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s shell) run(t *testing.T, line string) ([]byte, error) {
	cmd := exec.CommandContext(t.Context(), "bash", "-e", "-o", "pipefail", "-c", line)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "PATH="+s.bin+":"+os.Getenv("PATH"))
	return cmd.CombinedOutput()
}

// The examples are what GitHub and GitLab read, their jobs' lines end with status 0 beside the reference as router.hcl, and what a job keeps are the reports of
// its tests. Beside a file in which a test does not hold they end with another status, and the report that is kept says which.
func TestJobs(t *testing.T) {
	exe := filepath.Join(t.TempDir(), "udrouter")
	if out, err := exec.Command("go", "build", "-o", exe, "udrouter/cmd/udrouter").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	wrong := bytes.Replace(config.Reference, []byte(`expect = "reject"`), []byte(`expect = "accept"`), 1)
	if bytes.Equal(wrong, config.Reference) {
		t.Fatal("the reference has no test that can be made wrong")
	}
	for _, j := range append(github(t), gitlab(t)...) {
		t.Run(j.name, func(t *testing.T) {
			var reports int
			good, bad := newShell(t, exe, config.Reference), newShell(t, exe, wrong)
			for _, line := range j.lines {
				if elsewhere(line) {
					continue
				}
				if out, err := good.run(t, line); err != nil {
					t.Errorf("%s: %v\n%s", line, err, out)
				}
				_, report, tests := strings.Cut(line, "--junit ")
				if !tests {
					continue
				}
				reports++
				if n := failures(t, good.kept(t, j, report)); n != 0 {
					t.Errorf("%s reports %d failures", line, n)
				}
				if out, err := bad.run(t, line); err == nil {
					t.Errorf("%s ends with status 0 when a test does not hold:\n%s", line, out)
				}
				if n := failures(t, bad.kept(t, j, report)); n != 1 {
					t.Errorf("%s reports %d failures, want 1", line, n)
				}
			}
			if reports == 0 {
				t.Error("it runs no tests")
			}
		})
	}
}

// kept is the report that a line writes, which must be among what the job keeps.
func (s shell) kept(t *testing.T, j job, report string) []byte {
	t.Helper()
	if !slices.ContainsFunc(j.keeps, func(pattern string) bool { ok, err := filepath.Match(pattern, report); return ok && err == nil }) {
		t.Errorf("%s is not among what is kept, %q", report, j.keeps)
	}
	b, err := os.ReadFile(filepath.Join(s.dir, report))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// failures counts those of a report.
func failures(t *testing.T, report []byte) (n int) {
	t.Helper()
	var suites struct {
		Suites []struct {
			Cases []struct {
				Failure *struct{} `xml:"failure"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(report, &suites); err != nil {
		t.Fatalf("%v\n%s", err, report)
	}
	total := 0
	for _, s := range suites.Suites {
		for _, c := range s.Cases {
			total++
			if c.Failure != nil {
				n++
			}
		}
	}
	if total == 0 {
		t.Errorf("no tests are reported:\n%s", report)
	}
	return n
}
