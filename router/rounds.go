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
func (r *Router) comeRound(ctx context.Context) error {
	run := r.running.Load()
	if run == nil {
		return nil
	}
	r.asking.Lock()
	defer r.asking.Unlock()
	came := make([]chan struct{}, len(run.workers))
	for i, w := range run.workers {
		came[i] = make(chan struct{})
		w.asked.Store(&came[i])
		for _, p := range w.ports {
			p.queue.Waker().Wake()
		}
	}
	var errs []error
	for i, w := range run.workers {
		select {
		case <-came[i]:
		case <-w.ended:
		case <-ctx.Done():
			errs = append(errs, fmt.Errorf("worker %d does not come round", i))
		}
	}
	return errors.Join(errs...)
}

// answer tells who has asked that the worker begins a round, and waits while the workers are paused.
func (w *worker) answer() {
	if c := w.asked.Load(); c != nil && w.asked.CompareAndSwap(c, nil) {
		close(*c)
	}
	if open := w.gate.Load(); open != nil {
		<-*open
	}
}

// pause stops the workers between two batches, and those who send besides them, until resume is called, or Run ends.
func (r *Router) pause(ctx context.Context) (resume func(), err error) {
	open := make(chan struct{})
	r.gate.Store(&open)
	err = r.comeRound(ctx)
	r.besides.Lock()
	r.unpause = sync.OnceFunc(func() {
		r.gate.Store(nil)
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
