// Command deb builds what users install: udrouter_VERSION_amd64.deb, and a tarball with the same files for other systems. From the
// repository's root:
//
//	go run ./integration/deb [-o DIRECTORY]
//
// The version and all times are the commit's, so that two builds of it are the same byte for byte. nfpm makes the package; it is
// fetched and run by version, and is no dependency of the module.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// The newest that the module proxy has with all that it is made of.
const nfpm = "github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.43.4"

func main() {
	out := flag.String("o", ".", "directory to write to")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *out); err != nil {
		fmt.Fprintf(os.Stderr, "deb: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out string) error {
	b, err := release(ctx)
	if err != nil {
		return err
	}
	deb, tarball, err := b.build(ctx, out)
	if err != nil {
		return err
	}
	_, err = fmt.Printf("%s\n%s\n", deb, tarball)
	return err
}

// A build is what is made of a commit.
type build struct {
	root    string // the repository's
	version string // in Debian's form, where "~" is before anything
	commit  string
	time    time.Time
}

// release names the commit that is checked out: by its tag v1.2.3, by how far it is from the last one (1.2.3+4.abcdef), or, before there is any, by its time.
// Changes that are not committed add "+dirty".
func release(ctx context.Context) (build, error) {
	var b build
	git := func(args ...string) (string, error) {
		out, err := output(ctx, ".", nil, "git", args...)
		return strings.TrimSpace(out), err
	}
	root, err := git("rev-parse", "--show-toplevel")
	if err != nil {
		return b, err
	}
	head, err := git("show", "-s", "--format=%ct %h", "--abbrev=12", "HEAD")
	if err != nil {
		return b, err
	}
	seconds, commit, _ := strings.Cut(head, " ")
	unix, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return b, fmt.Errorf("reading the commit's time: %w", err)
	}
	b = build{root: root, commit: commit, time: time.Unix(unix, 0).UTC()}
	described, err := git("describe", "--tags", "--match", "v[0-9]*", "--abbrev=12")
	if err != nil { // no tag
		described = ""
	}
	b.version = version(described, b.commit, b.time)
	changed, err := git("status", "--porcelain", "--untracked-files=no")
	if err != nil {
		return b, err
	}
	if changed != "" {
		b.version += "+dirty"
	}
	return b, nil
}

// version is Debian's for what "git describe" says.
func version(described, commit string, at time.Time) string {
	if described == "" {
		return "0.1.0~git" + at.Format("20060102150405") + "." + commit
	}
	v := strings.TrimPrefix(described, "v")
	if tag, distance, ok := cutDistance(v); ok {
		v = tag + "+" + distance
	}
	return strings.Replace(v, "-", "~", 1) // 1.0.0-rc1 is before 1.0.0
}

// cutDistance splits 1.2.3-4-gabcdef into 1.2.3 and 4.abcdef.
func cutDistance(v string) (tag, distance string, ok bool) {
	i := strings.LastIndex(v, "-g")
	if i < 0 {
		return "", "", false
	}
	j := strings.LastIndex(v[:i], "-")
	if j < 0 {
		return "", "", false
	}
	return v[:j], v[j+1:i] + "." + v[i+2:], true
}

// build writes the package and the tarball to a directory and says where they are.
func (b build) build(ctx context.Context, out string) (deb, tarball string, err error) {
	if out, err = filepath.Abs(out); err != nil {
		return "", "", err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return "", "", err
	}
	stage, err := os.MkdirTemp("", "udrouter-deb-")
	if err != nil {
		return "", "", err
	}
	defer os.RemoveAll(stage)
	if err := b.stage(ctx, stage); err != nil {
		return "", "", err
	}
	deb = filepath.Join(out, "udrouter_"+b.version+"_amd64.deb")
	if _, err := output(ctx, stage, b.env(), "go", "run", nfpm, "package", "--config", "nfpm.yaml", "--packager", "deb", "--target", deb); err != nil {
		return "", "", err
	}
	tarball = filepath.Join(out, "udrouter-"+b.version+"-linux-amd64.tar.gz")
	return deb, tarball, b.tarball(stage, tarball)
}

// env is what the programs are told of the build. A user's own flags would make another binary.
func (b build) env() []string {
	return []string{"VERSION=" + b.version, fmt.Sprintf("SOURCE_DATE_EPOCH=%d", b.time.Unix()), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOAMD64=v1", "GOFLAGS=", "GOEXPERIMENT="}
}

// output runs a program and returns its stdout; its stderr is in the error.
func output(ctx context.Context, dir string, env []string, name string, args ...string) (string, error) {
	c := exec.CommandContext(ctx, name, args...)
	c.Dir = dir
	c.Env = append(os.Environ(), env...)
	var errs strings.Builder
	c.Stderr = &errs
	out, err := c.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return string(out), nil
}
