package dom0

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
)

// journal is what was found before the first change, so that it can be put back even when the process that changed it
// was killed. A value stands in it from before its first change until it is restored; what is there is never
// overwritten, so a later run that finds it does not take an earlier run's changes for the user's.
//
// It belongs to one boot and one network namespace, and names devices by their index: indexes are not used again as
// long as the namespace lives, so an entry of a vanished device cannot be applied to another.
type journal struct {
	path string

	Version int    `json:"version"`
	Boot    string `json:"boot"`
	Netns   uint64 `json:"netns"`
	Bridge  string `json:"bridge"`
	// Created is the address of the bridge if it was created here. It is chosen and written before the bridge is
	// made, so that there is no moment at which a kill would leave a bridge that is nobody's.
	Created string          `json:"created,omitempty"`
	Devices map[int]*device `json:"devices,omitempty"`
}

const journalVersion = 1

// device is what was found of one interface; what is nil was not changed.
type device struct {
	Name       string            `json:"name"`
	Up         *bool             `json:"up,omitempty"`
	MTU        *int              `json:"mtu,omitempty"`
	TxQueueLen *int              `json:"tx_queue_len,omitempty"`
	MAC        string            `json:"mac,omitempty"` // of a bridge without ports
	Master     *int              `json:"master,omitempty"`
	GenMode    *uint8            `json:"addr_gen_mode,omitempty"`
	NoIPv6     *bool             `json:"disable_ipv6,omitempty"`
	LinkLocals []linkLocal       `json:"link_locals,omitempty"`
	Bridge     map[string]uint32 `json:"bridge,omitempty"` // by the names of bridgeSettings
	Port       *portRecord       `json:"port,omitempty"`
}

type linkLocal struct {
	Prefix netip.Prefix `json:"prefix"`
	Flags  uint32       `json:"flags"`
	Proto  uint8        `json:"proto,omitempty"`
}

// portRecord is a bridge port's own state. It goes when the port leaves the bridge.
type portRecord struct {
	Flags   portFlags     `json:"flags"`
	Entries []staticEntry `json:"entries,omitempty"` // of the forwarding database, those that do not come by themselves
}

type staticEntry struct {
	MAC   string `json:"mac"`
	VLAN  uint16 `json:"vlan,omitempty"`
	State uint16 `json:"state"`
	Flags uint8  `json:"flags,omitempty"`
}

// stateName is the beginning of a namespace's file names in the state directory.
func stateName(netns uint64) string { return fmt.Sprintf("dom0-%x", netns) }

func journalPath(dir string, netns uint64, bridge string) string {
	return filepath.Join(dir, stateName(netns)+"-"+url.PathEscape(bridge)+".json")
}

// readJournal reads the journal that an earlier run left for the bridge, or starts one. One that is damaged is moved
// aside, for it to be looked at; what was found is then lost.
func readJournal(dir, boot string, netns uint64, bridge string) (j *journal, found bool, err error) {
	fresh := &journal{
		path: journalPath(dir, netns, bridge), Version: journalVersion,
		Boot: boot, Netns: netns, Bridge: bridge, Devices: map[int]*device{},
	}
	j, err = loadJournal(fresh.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fresh, false, nil
	case err != nil:
		return fresh, false, err
	case j.Boot != boot || j.Netns != netns || j.Bridge != bridge:
		return fresh, false, nil // of another boot: what it describes is gone
	}
	return j, true, nil
}

func loadJournal(path string) (*journal, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the undo journal: %w", err)
	}
	j := &journal{path: path}
	if err = json.Unmarshal(b, j); err == nil && j.Version != journalVersion {
		err = fmt.Errorf("version %d is not %d", j.Version, journalVersion)
	}
	if err != nil {
		aside := path + ".damaged"
		if e := os.Rename(path, aside); e != nil {
			return nil, fmt.Errorf("moving the undo journal aside: %w", e)
		}
		return nil, &damagedError{aside, err}
	}
	if j.Devices == nil {
		j.Devices = map[int]*device{}
	}
	return j, nil
}

// damagedError tells that a journal could not be used and where it lies now.
type damagedError struct {
	path string
	err  error
}

func (e *damagedError) Error() string {
	return fmt.Sprintf("the undo journal was damaged (%v) and lies in %s now: what it knew cannot be restored", e.err, e.path)
}

func (e *damagedError) Unwrap() error { return e.err }

// otherJournals are those that earlier runs left in the namespace for other bridges, and removes those of earlier boots.
func otherJournals(dir, boot string, netns uint64, bridge string) (list []*journal, err error) {
	paths, err := filepath.Glob(filepath.Join(dir, stateName(netns)+"-*.json"))
	if err != nil {
		return nil, fmt.Errorf("looking for undo journals: %w", err)
	}
	var errs []error
	for _, p := range paths {
		if p == journalPath(dir, netns, bridge) {
			continue
		}
		j, err := loadJournal(p)
		switch {
		case err != nil:
			errs = append(errs, err)
		case j.Boot != boot:
			errs = append(errs, j.remove())
		case j.Netns == netns:
			list = append(list, j)
		}
	}
	return list, errors.Join(errs...)
}

// save writes the journal so that a crash leaves the old or the new one, never half.
func (j *journal) save() error {
	b, err := json.MarshalIndent(j, "", "\t")
	if err != nil {
		return fmt.Errorf("writing the undo journal: %w", err)
	}
	if err := writeAtomic(j.path, b); err != nil {
		return fmt.Errorf("writing the undo journal: %w", err)
	}
	return nil
}

// writeAtomic replaces a file, with mode 0600. Its directory belongs to the holder of the lock alone.
func writeAtomic(path string, b []byte) error {
	f, err := os.OpenFile(path+".tmp", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err = f.Write(b); err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// remove deletes the journal: there is nothing left to undo.
func (j *journal) remove() error {
	if err := os.Remove(j.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the undo journal: %w", err)
	}
	return nil
}
