//go:build race

package integration

const raceEnabled = true

// buildFlags make the program under test look for races as the tests do.
var buildFlags = []string{"-race"}
