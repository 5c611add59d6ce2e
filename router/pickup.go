package router

import "time"

// PickUpTime is for how long connections are picked up whose flows are lost: longer than the pauses of a sender that nobody answers (TCP_RTO_MAX, 120 s) and
// the keep-alives of most applications.
const PickUpTime = 5 * time.Minute

// PickUp lets connections go on whose flows the router before this one has not left, for PickUpTime; see policy.Engine.PickUp. What Preload has had of
// them is forgotten: windows have gone on since, and nobody picks up what a flow refuses.
func (r *Router) PickUp() {
	engine := r.current.Load().engine
	engine.Forget()
	engine.PickUp(r.now() + PickUpTime)
}
