// Package policy decides what becomes of a packet. It knows neither netstack nor the operating system, allocates nothing
// per packet, and never panics on one. Its files stand in the order in which a packet meets them:
//
//	packet.go nd.go   one pass over the frame; each defect has a Reason
//	address.go        what an address is by itself
//	binding.go        whose it is: the table of guests
//	guard.go          what a guest may never send, and what never comes from the uplink
//	hostflow.go       what dom0 has opened toward guests, so that answers come back
//	rule.go           rules, chains and limits as package config reads them
//	reason.go         the closed list of reasons
package policy
