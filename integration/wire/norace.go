//go:build !race

package wire

// RaceEnabled tells whether tests and program look for races, and so take more memory and time.
const RaceEnabled = false

var buildFlags []string
