//go:build race

package wire

// RaceEnabled tells whether tests and program look for races, and so take more memory and time.
const RaceEnabled = true

// buildFlags make the program under test look for races as the tests do.
var buildFlags = []string{"-race"}
