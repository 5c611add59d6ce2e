// Package netstackfacts is a contract with gVisor's netstack at the version in go.mod. It has tests only: each subtest of TestFacts sends
// the very packet that a row of our fact sheet is about to a bare two-NIC netstack router and asserts what happens, right or wrong.
// What udrouter keeps away from netstack, and what it leaves to it, rests on these rows.
//
// When a test fails after a version bump, netstack behaves otherwise: read the row, decide what that means for udrouter (a guard
// may have become superfluous, or insufficient), then change the row. The tests are not about udrouter's own code.
//
// The rows that need the kernel (fdbased, AF_XDP) make their own network namespace and so want root; they fail without it.
package netstackfacts
