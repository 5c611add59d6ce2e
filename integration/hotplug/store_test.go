package hotplug

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"udrouter/config"
)

func open(t *testing.T) (*Store, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s, dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func load(t *testing.T, s *Store, interfaces map[string]int) (list []config.Attachment, damaged []error) {
	t.Helper()
	list, damaged, err := s.Load(func() (map[string]int, error) { return interfaces, nil })
	must(t, err)
	return list, damaged
}

// Scripts are root's, and the router may be another user, whose the state directory is then: what they note is that user's.
func TestStoreIsTheRouters(t *testing.T) {
	const user = 9999
	dir := t.TempDir()
	must(t, os.Chown(dir, user, user))
	s, err := Open(dir)
	must(t, err)
	must(t, s.Put(config.Attachment{Vif: "vif7.0", Index: 7}))
	for _, path := range []string{s.dir, s.path("vif7.0")} {
		var st unix.Stat_t
		must(t, unix.Lstat(path, &st))
		if st.Uid != user || st.Gid != user {
			t.Errorf("%s belongs to %d:%d", path, st.Uid, st.Gid)
		}
	}
}

// The directory is the router's user's: root follows no link there.
func TestStoreFollowsNoLinks(t *testing.T) {
	const text = "somebody else's"
	other := filepath.Join(t.TempDir(), "other")
	must(t, os.WriteFile(other, []byte(text), 0o600))
	s, dir := open(t)
	a := config.Attachment{Vif: "vif7.0", Index: 7}
	must(t, os.Symlink(other, s.path(a.Vif)+".tmp"))
	must(t, os.Symlink(other, s.path(a.Vif)))
	must(t, s.Put(a))
	if b, err := os.ReadFile(other); err != nil || string(b) != text {
		t.Errorf("the file that a link names has %q, %v", b, err)
	}
	if list, damaged := load(t, s, map[string]int{"vif7.0": 7}); len(list) != 1 || damaged != nil {
		t.Errorf("%+v, %v", list, damaged)
	}
	elsewhere := t.TempDir()
	must(t, os.RemoveAll(s.dir))
	must(t, os.Symlink(elsewhere, s.dir))
	if s, err := Open(dir); err == nil {
		if err := s.Put(a); err == nil {
			t.Error("the directory of vifs may be a link")
		}
	}
	if files, _ := filepath.Glob(filepath.Join(elsewhere, "*")); len(files) > 0 {
		t.Errorf("in the directory that a link names: %v", files)
	}
}

// What was noted is there for another process, for as long as its interface is, and no longer.
func TestStore(t *testing.T) {
	s, dir := open(t)
	a := config.Attachment{Vif: "vif7.0", Index: 7, Domain: "a", Instance: "a", MAC: "00:16:3e:00:00:07", Addresses: []string{"192.0.2.7"}}
	b := config.Attachment{Vif: "tap100i0", Index: 3, Device: 1}
	moved := config.Attachment{Vif: "vif9.0", Index: 9}
	gone := config.Attachment{Vif: "vif8.0", Index: 8}
	for _, x := range []config.Attachment{a, a, b, moved, gone} {
		must(t, s.Put(x))
	}
	other, err := Open(dir)
	must(t, err)
	interfaces := map[string]int{"vif7.0": 7, "tap100i0": 3, "vif9.0": 10, "eth0": 2}
	list, damaged := load(t, other, interfaces)
	if diff := cmp.Diff([]config.Attachment{b, a}, list); diff != "" || damaged != nil {
		t.Errorf("%v\n%s", damaged, diff)
	}
	// Forgotten for good, though an interface of the index comes.
	interfaces["vif8.0"], interfaces["vif9.0"] = 8, 9
	if list, _ := load(t, s, interfaces); len(list) != 2 {
		t.Errorf("%+v", list)
	}
	for _, c := range []struct {
		vif, instance string
		was           bool
	}{{"vif8.0", "", false}, {"vif7.0", "another", false}, {"vif7.0", "a", true}, {"vif7.0", "a", false}, {"tap100i0", "x", true}} {
		if was, err := s.Remove(c.vif, c.instance); was != c.was || err != nil {
			t.Errorf("%+v: %v, %v", c, was, err)
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "*", "*"))
	if must(t, err); len(files) > 0 {
		t.Errorf("left behind: %v", files)
	}
}

// That a vif was refused is known for as long as its interface is there, whatever is noted of it anew.
func TestStoreRefused(t *testing.T) {
	s, _ := open(t)
	a := config.Attachment{Vif: "vif7.0", Index: 7, Domain: "a"}
	refused := func(index int) bool {
		t.Helper()
		list, damaged := load(t, s, map[string]int{"vif7.0": index})
		if len(list) != 1 || damaged != nil {
			t.Fatalf("%+v, %v", list, damaged)
		}
		return list[0].Refused
	}
	must(t, s.Refuse("vif7.0", 7)) // which is not there
	must(t, s.Put(a))
	must(t, s.Refuse("vif7.0", 6)) // an earlier one of the name
	if refused(7) {
		t.Error("it is refused from the beginning")
	}
	must(t, s.Refuse("vif7.0", 7))
	must(t, s.Put(a))
	if !refused(7) {
		t.Error("it is no more refused when it is noted again")
	}
	a.Index = 8
	must(t, s.Put(a))
	if refused(8) {
		t.Error("another interface of the name is refused")
	}
}

// The interface of a guest that is there is no other's, unless it was refused.
func TestStoreOfAnotherGuest(t *testing.T) {
	at := func(index int, guest, domain string) config.Attachment {
		return config.Attachment{Vif: "vnet5", Index: index, Guest: guest, Domain: domain}
	}
	for name, c := range map[string]struct {
		was, now config.Attachment
		refused  bool // was
		ok       bool
	}{
		"the same":              {at(5, "1", "a"), at(5, "1", "a"), false, true},
		"under another name":    {at(5, "1", "a"), at(5, "1", "b"), false, true},
		"another guest":         {at(5, "1", "a"), at(5, "2", "a"), false, false},
		"another name":          {at(5, "", "a"), at(5, "", "b"), false, false},
		"another, with a word":  {at(5, "", "a"), at(5, "2", "b"), false, false},
		"the same, with a word": {at(5, "", "a"), at(5, "2", "a"), false, true},
		"nobody has said whose": {at(5, "", ""), at(5, "2", "b"), false, true},
		"refused":               {at(5, "1", "a"), at(5, "2", "b"), true, true},
		"another interface":     {at(5, "1", "a"), at(6, "2", "b"), false, true},
	} {
		s, _ := open(t)
		must(t, s.Put(c.was))
		if c.refused {
			must(t, s.Refuse("vnet5", 5))
		}
		err := s.Put(c.now)
		if (err == nil) != c.ok || err != nil && !strings.Contains(err.Error(), `it is the port of domain "a"`) {
			t.Errorf("%s: %v", name, err)
		}
		want := c.was
		if c.ok {
			want = c.now
		}
		if list, _ := load(t, s, map[string]int{"vnet5": want.Index}); len(list) != 1 || list[0].Guest != want.Guest {
			t.Errorf("%s: noted is %+v", name, list)
		}
	}
}

// Files of another boot mean nothing, and those that are none are forgotten and told of.
func TestStoreOfAnotherBoot(t *testing.T) {
	s, dir := open(t)
	before := &Store{dir: s.dir, boot: "another"}
	must(t, before.Put(config.Attachment{Vif: "vif7.0", Index: 7}))
	for name, text := range map[string]string{"vif1.0.json": "{", "vif2.0.json": fmt.Sprintf(`{"boot": %q, "vif": "vif7.0", "index": 7}`, s.boot), "x.json.tmp": ""} {
		must(t, os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600))
	}
	list, damaged := load(t, s, map[string]int{"vif7.0": 7, "vif1.0": 1, "vif2.0": 2})
	if len(list) > 0 || len(damaged) != 2 || !strings.Contains(damaged[0].Error(), "vif1.0.json") || !strings.Contains(damaged[1].Error(), "it is about vif7.0") {
		t.Errorf("%+v, %v", list, damaged)
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "*", "*")); len(files) > 0 {
		t.Errorf("left behind: %v", files)
	}
	if fi, err := os.Stat(s.dir); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
}

// A vif that is noted again while an older one of its name is forgotten is not lost.
func TestStoreAtTheSameTime(t *testing.T) {
	s, _ := open(t)
	var mu sync.Mutex
	index := 1
	interfaces := func() (map[string]int, error) {
		mu.Lock()
		defer mu.Unlock()
		return map[string]int{"vif1.0": index}, nil
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 500 {
			if _, _, err := s.Load(interfaces); err != nil {
				t.Error(err)
			}
		}
	}()
	for i := range 500 {
		mu.Lock()
		index = i + 2
		mu.Unlock()
		must(t, s.Put(config.Attachment{Vif: "vif1.0", Index: i + 2}))
		list, _, err := s.Load(interfaces)
		if must(t, err); len(list) != 1 || list[0].Index != i+2 {
			t.Fatalf("%d: %+v", i+2, list)
		}
	}
	<-done
}
