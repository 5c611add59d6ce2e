// Package kernelfacts is a contract with the Linux kernel. It has tests only: each subtest of TestFacts shows, on real links in a network
// namespace of its own, a behaviour of taps, TAP devices or bridge ports that udrouter's links and guards rest on (checked on 6.18).
//
// When a test fails on another kernel, udrouter must not be trusted on it before the row is understood. The tests want root and fail
// without it. None waits for time to pass: that something does not arrive shows by what was sent after it and does.
package kernelfacts
