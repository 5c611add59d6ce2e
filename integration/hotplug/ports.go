package hotplug

import (
	"cmp"
	"context"
	"log/slog"
	"slices"

	"udrouter/config"
	"udrouter/policy"
)

// Ports attaches what the store has to configurations. Its methods may be called concurrently.
type Ports struct {
	Store      *Store
	Interfaces func() (map[string]int, error) // indexes by name
	RouterMAC  policy.MAC                     // which no guest may have
	Log        *slog.Logger
}

// Attach is a file, or what it is the Base of, with what hotplug has named and is there now; c itself where that is what it has.
func (p *Ports) Attach(c *config.Config) (*config.Config, error) {
	list, damaged, err := p.Store.Load(p.Interfaces)
	if err != nil {
		return nil, err
	}
	for _, err := range damaged {
		p.Log.Warn(err.Error())
	}
	if c.Base != nil && slices.EqualFunc(list, c.Attached, func(a config.Attachment, b config.Attached) bool { return a.Equal(b.Attachment) }) {
		return c, nil
	}
	file := cmp.Or(c.Base, c)
	named := *file
	named.Bridge.MAC = p.RouterMAC // the one that is derived, where the file has none
	next := named.Attach(list)
	next.Bridge, next.Base = file.Bridge, file
	return next, nil
}

// Tell logs what has changed from one configuration to the next, and notes what is refused.
func (p *Ports) Tell(was, now []config.Attached) {
	before := make(map[int]config.Attached, len(was))
	for _, a := range was {
		before[a.Index] = a
	}
	for _, a := range now {
		if a.State == config.AttachRefused && !a.Refused {
			if err := p.Store.Refuse(a.Vif, a.Index); err != nil {
				p.Log.Warn(err.Error())
			}
		}
		b, known := before[a.Index]
		delete(before, a.Index)
		if known && a.State == b.State && a.Domu == b.Domu && a.Text == b.Text {
			continue
		}
		level := slog.LevelInfo
		if a.State == config.AttachRefused {
			level = slog.LevelWarn
		}
		p.Log.Log(context.Background(), level, "vif "+string(a.State), "vif", a.Vif, "domain", a.Domain, "domu", a.Domu, "by", a.By, "text", a.Text)
	}
	for _, a := range was {
		if _, gone := before[a.Index]; gone {
			p.Log.Info("vif gone", "vif", a.Vif, "domain", a.Domain, "domu", a.Domu)
		}
	}
}
