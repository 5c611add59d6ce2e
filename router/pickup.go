package router

import "time"

// PickUpTime is for how long connections are picked up whose flows are lost: longer than the pauses of a sender that nobody answers (TCP_RTO_MAX, 120 s) and
// the keep-alives of most applications.
const PickUpTime = 5 * time.Minute

// PickUp lets connections go on of which the router has no flows, since the one before it was killed, for PickUpTime; see policy.Engine.PickUp.
func (r *Router) PickUp() { r.current.Load().engine.PickUp(r.now() + PickUpTime) }
