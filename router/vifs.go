package router

import (
	"encoding/json"
	"net/http"
	"time"

	"udrouter/config"
)

// Hotplug knows which ports the hotplug scripts have named. Its methods may be called concurrently.
type Hotplug interface {
	// Attach is a configuration with what is named and there now; the same one where that is what it has.
	Attach(*config.Config) (*config.Config, error)

	// Tell is told of what a configuration that has come into force has attached, and of what the one before it had.
	Tell(was, now []config.Attached)

	// Secured tells whether frames pass by a guest's port, or why not.
	Secured(vif string, index int) error
}

// VifAnswer is what POST /v1/vifs answers: what became of a vif, and "" or why frames do not pass by it yet.
type VifAnswer struct {
	config.Attached
	Error string `json:"error"`
}

// VifList is what GET /v1/vifs answers.
type VifList struct {
	Vifs []config.Attached `json:"vifs"`
}

// Settle binds what hotplug has named by now, and forgets whom it named and who is gone. Guests that stay do not notice.
func (r *Router) Settle() error {
	r.reloading.Lock()
	defer r.reloading.Unlock()
	return r.settle()
}

// settle is Settle with r.reloading held.
func (r *Router) settle() error {
	if r.Hotplug == nil || r.handedOver.Load() {
		return nil // it is the next one's matter, which looks itself
	}
	now := r.current.Load().plan.config
	next, err := r.Hotplug.Attach(now)
	if err != nil || next == now {
		return err
	}
	if err := r.goOn(next); err != nil {
		r.log.Error("what hotplug has named could not be followed", "error", err)
		return err
	}
	return nil
}

// attached is what hotplug has named.
func (r *Router) attached() []config.Attached { return r.current.Load().plan.config.Attached }

// answerVif goes by what hotplug has named and tells of the vif of the query, which may be none of it any more.
func (r *Router) answerVif(w http.ResponseWriter, req *http.Request) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(reloadWait))
	vif := req.URL.Query().Get("vif")
	if vif == "" {
		http.Error(w, "vif wants an interface's name", http.StatusBadRequest)
		return
	}
	a := VifAnswer{Attached: config.Attached{Attachment: config.Attachment{Vif: vif}}}
	err := r.Settle()
	r.leaveToNext()
	for _, b := range r.attached() {
		if b.Vif == vif {
			a.Attached = b
		}
	}
	if err == nil && a.State == config.AttachBound {
		err = r.Hotplug.Secured(vif, a.Index)
		r.leaveToNext()
	}
	if err != nil {
		a.Error = err.Error()
	}
	r.answer(w, a)
}

func (r *Router) answerVifs(w http.ResponseWriter, _ *http.Request) {
	r.answer(w, VifList{append([]config.Attached{}, r.attached()...)})
}

func (r *Router) answer(w http.ResponseWriter, what any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(what); err != nil {
		r.log.Debug("answering on the control socket", "error", err)
	}
}
