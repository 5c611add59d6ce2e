package router

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// running is what Run has started.
type running struct {
	tasks   []task
	workers []*worker
}

// aside is the world for a goroutine that is no worker, until it calls done: what it sends meanwhile goes by that world.
func (r *Router) aside() (wd *world, done func()) {
	r.besides.RLock()
	return r.current.Load(), r.besides.RUnlock
}

// settled returns when nobody goes by a world that is no longer the current one.
func (r *Router) settled(ctx context.Context) error {
	if err := r.comeRound(ctx); err != nil {
		return err
	}
	r.besides.Lock()
	defer r.besides.Unlock() // whoever was aside is back
	return nil
}

// comeRound returns when each worker has begun another round. None of them does more for it than to look at one word a round.
func (r *Router) comeRound(ctx context.Context) error { return r.ask(ctx, nil) }

// question is what a worker answers when it begins a round: it closes came, and does not go on before open is closed, if there is one.
type question struct{ came, open chan struct{} }

// ask has each worker answer a question, see comeRound.
func (r *Router) ask(ctx context.Context, open chan struct{}) error {
	run := r.running.Load()
	if run == nil {
		return nil
	}
	r.asking.Lock()
	defer r.asking.Unlock()
	questions := make([]question, len(run.workers))
	for i, w := range run.workers {
		questions[i] = question{make(chan struct{}), open}
		w.asked.Store(&questions[i])
		for _, p := range w.ports {
			p.queue.Waker().Wake()
		}
	}
	var errs []error
	for i, w := range run.workers {
		select {
		case <-questions[i].came:
		case <-w.ended:
		case <-ctx.Done():
			errs = append(errs, fmt.Errorf("worker %d does not come round", i))
		}
	}
	return errors.Join(errs...)
}

// answer tells who has asked that the worker begins a round, and waits as long as it shall.
func (w *worker) answer() {
	if q := w.asked.Load(); q != nil && w.asked.CompareAndSwap(q, nil) {
		close(q.came)
		if q.open != nil {
			<-q.open
		}
	}
}

// pause stops the workers between two batches, and those who send besides them, until resume is called, or Run ends.
func (r *Router) pause(ctx context.Context) (resume func(), err error) {
	open := make(chan struct{})
	err = r.ask(ctx, open)
	r.besides.Lock()
	r.unpause = sync.OnceFunc(func() {
		close(open)
		r.besides.Unlock()
	})
	if err != nil {
		r.unpause()
		return nil, err
	}
	return r.unpause, nil
}

// Alive tells whether all that forwards, and those tasks that are never long at something, come round before ctx ends; if not, which do not. One that
// waits for packets comes round.
func (r *Router) Alive(ctx context.Context) error {
	errs := []error{r.comeRound(ctx)}
	if run := r.running.Load(); run != nil {
		for _, t := range run.tasks {
			if t.asked == nil {
				continue
			}
			select {
			case t.asked <- struct{}{}:
			case <-ctx.Done():
				errs = append(errs, fmt.Errorf("the %s task does not come round", t.name))
			}
		}
	}
	return errors.Join(errs...)
}
