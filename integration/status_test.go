package integration

import (
	"encoding/json"
	"testing"

	"udrouter/integration/lab"
	"udrouter/router"
)

// status is what a running router tells of itself.
func status(t testing.TB, p *lab.Proc) router.Status {
	t.Helper()
	raw, err := p.Get(testContext(t), "/v1/status")
	must(t, err)
	var s router.Status
	must(t, json.Unmarshal(raw, &s))
	return s
}
