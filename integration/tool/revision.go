package tool

import "debug/buildinfo"

// Revision says what a program was built from: the revision of its source as far as it is known, whether that was changed, and the version of Go.
func Revision(path string) string {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return "unknown revision"
	}
	rev, changed := "unknown revision", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			rev = "revision " + s.Value[:min(12, len(s.Value))]
		case s.Key == "vcs.modified" && s.Value == "true":
			changed = ", changed"
		}
	}
	return rev + changed + ", " + info.GoVersion
}
