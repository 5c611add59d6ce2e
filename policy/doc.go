// Package policy decides what becomes of a packet. It knows neither netstack nor the operating system, allocates nothing
// per packet, and never panics on one. Its files stand in the order in which a packet meets them:
//
//	packet.go nd.go   one pass over the frame; each defect has a Reason; options.go walks those of IP
//	address.go        what an address is by itself
//	binding.go        whose it is: the table of guests
//	guard.go dhcp.go  what a guest may never send, and what never comes from the uplink
//	engine.go         state, rules of both ends and limits, one after the other, make a verdict
//	takeover.go       another policy after the one before: which flows live on
//	flow.go           what belongs together: the key, the entry, and looking it up
//	tcp.go            which segments a TCP connection can send
//	fragment.go       later fragments follow their first
//	quote.go          which flow an ICMP error is about
//	flowtable.go      the memory of flows: finding, listing
//	flowqueue.go      which flows end first, by age or where there are too many
//	flowbudget.go     how many flows each guest may have of all
//	compile.go        chains of rules, compiled to the sets of bitset.go, so that no walk over all finds the first match
//	limit.go          token buckets
//	rule.go           rules, chains and limits as package config reads them
//	reason.go         the closed list of reasons
package policy
