package main

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"udrouter/config"
)

var writePages = flag.Bool("write", false, "write what is generated of cmd/docs")

const pages = "../docs/"

// generated holds a file of cmd/docs against what is generated.
func generated(t *testing.T, name string, want []byte) {
	t.Helper()
	file := filepath.Join(pages, name)
	if *writePages {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("cmd/docs/%s is not what is generated: go test ./cmd/udrouter -run '%s' -write", name, t.Name())
	}
}

func TestConfigurationPage(t *testing.T) {
	generated(t, "configuration.md", []byte(configurationPage()))
}

// Page and manual, as `udrouter docs` writes them, have every block and key of the grammar.
func TestDocsConfiguration(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("SOURCE_DATE_EPOCH", "86400")
	c := command()
	c.SetArgs([]string{"docs", dir})
	if err := c.Execute(); err != nil {
		t.Fatal(err)
	}
	page, manual := text(t, filepath.Join(dir, "configuration.md")), text(t, filepath.Join(dir, "router.hcl.5"))
	if title := `.TH "ROUTER.HCL" "5" "Jan 1970" `; !strings.Contains(manual, title) {
		t.Errorf("the manual has no title %s", title)
	}
	parts, sections := map[string]string{}, map[string]string{}
	for _, part := range strings.Split(page, "\n## ")[1:] {
		name, rest, _ := strings.Cut(part, "\n")
		parts[name] = rest
	}
	for _, section := range strings.Split(manual, "\n.SH ")[1:] {
		name, rest, _ := strings.Cut(section, "\n")
		sections[strings.ToLower(name)] = rest
	}
	for _, b := range config.Outline() {
		for what, texts := range map[string]map[string]string{"page": parts, "manual": sections} {
			part, ok := texts[b.Path]
			if !ok {
				t.Errorf("the %s has no %s", what, b.Path)
			}
			for _, k := range b.Keys {
				if !strings.Contains(part, "`"+k.Name+"`") && !strings.Contains(part, `\fB`+k.Name+`\fP`) {
					t.Errorf("the %s has no %s.%s", what, b.Path, k.Name)
				}
			}
		}
	}
	if len(parts) != len(config.Outline()) {
		t.Errorf("the page has %d parts for %d blocks", len(parts), len(config.Outline()))
	}
}

// The page of the control socket has every request that the router serves, who may make it, and no other.
func TestAPIPage(t *testing.T) {
	served := map[string]string{}
	for _, m := range regexp.MustCompile(`mux\.HandleFunc\("((?:GET|POST) /v1/\w+)", (r\.root\()?`).FindAllStringSubmatch(text(t, "../../router/control.go"), -1) {
		served[m[1]] = map[bool]string{true: "root", false: "group"}[m[2] != ""]
	}
	if len(served) < 8 {
		t.Fatalf("control.go serves %v", served)
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `((?:GET|POST) [^`]*)` \\| (\\w+) \\|").FindAllStringSubmatch(text(t, pages+"api.md"), -1) {
		if served[m[1]] != m[2] {
			t.Errorf("api.md has %s for %s, the router for %q", m[1], m[2], served[m[1]])
		}
		delete(served, m[1])
	}
	for request := range served {
		t.Errorf("api.md lacks %s", request)
	}
}

// The page for developers and router/doc.go name files that are there.
func TestDevelopersPage(t *testing.T) {
	page := text(t, pages+"developers.md")
	_, way, _ := strings.Cut(page, "## The packet's way")
	named := 0
	dir := ""
	for _, m := range regexp.MustCompile("`(?:(policy|router|stack)/)?(\\w+\\.go)`").FindAllStringSubmatch(way, -1) {
		if m[1] != "" {
			dir = m[1]
		}
		named++
		if _, err := os.Stat(filepath.Join("../..", dir, m[2])); err != nil {
			t.Errorf("developers.md names a file: %v", err)
		}
	}
	if named < 30 {
		t.Errorf("it names %d files", named)
	}
	for _, name := range regexp.MustCompile(`\w+\.go`).FindAllString(text(t, "../../router/doc.go"), -1) {
		if _, err := os.Stat(filepath.Join("../../router", name)); err != nil {
			t.Errorf("router/doc.go names a file: %v", err)
		}
	}
}

var (
	pageLink = regexp.MustCompile(`\]\(([^)\s]*)\)`)
	heading  = regexp.MustCompile(`(?m)^#+ (.*)$`)
	noAnchor = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// Every link of README and of the pages leads to a file, and, with an anchor, to one of its headings.
func TestLinks(t *testing.T) {
	files, err := filepath.Glob(pages + "*.md")
	if err != nil || len(files) == 0 {
		t.Fatalf("there is no page in %s: %v", pages, err)
	}
	links := 0
	for _, file := range append(files, "../../README.md") {
		for _, m := range pageLink.FindAllStringSubmatch(text(t, file), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			links++
			target, anchor, _ := strings.Cut(m[1], "#")
			to := file
			if target != "" {
				to = filepath.Join(filepath.Dir(file), target)
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s has a link to %s: %v", file, m[1], err)
			} else if anchor != "" && !hasAnchor(text(t, to), anchor) {
				t.Errorf("%s has a link to %s, which is no heading there", file, m[1])
			}
		}
	}
	if links < 60 {
		t.Errorf("there are %d links", links)
	}
}

// hasAnchor tells whether a page has a heading of an anchor, made as GitHub makes it.
func hasAnchor(page, anchor string) bool {
	for _, m := range heading.FindAllStringSubmatch(page, -1) {
		if strings.ReplaceAll(noAnchor.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-") == anchor {
			return true
		}
	}
	return false
}

func text(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
