package integration

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"udrouter/config"
	"udrouter/integration/cases"
	"udrouter/integration/wire"
)

// matches holds an answer against its schema in cmd/docs/schema, which is stricter here: what it does not name is no part of it.
func matches(t *testing.T, name, answer string) {
	t.Helper()
	var schema any
	must(t, json.Unmarshal([]byte(readFile(t, "../cmd/docs/schema/"+name+".json")), &schema))
	closed(schema)
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	must(t, c.AddResource("answer.json", schema))
	s, err := c.Compile("answer.json")
	must(t, err)
	value, err := jsonschema.UnmarshalJSON(strings.NewReader(answer))
	must(t, err)
	if err := s.Validate(value); err != nil {
		t.Errorf("%s: %v\n%s", name, err, answer)
	}
}

// closed has a schema's objects admit no further properties.
func closed(schema any) {
	switch s := schema.(type) {
	case map[string]any:
		if _, ok := s["properties"].(map[string]any); ok && s["type"] == "object" {
			s["additionalProperties"] = false
		}
		for _, v := range s {
			closed(v)
		}
	case []any:
		for _, v := range s {
			closed(v)
		}
	}
}

// What a running router answers is what the schemas say: with flows, drops, neighbours, a reload that went well and one that did not.
func TestAnswersMatchSchemas(t *testing.T) {
	w := wire.New(t, strings.Replace(string(config.Reference), "\"enforce\"\n", "\"shadow\"\n", 1))
	ask := func(wantStatus int, schema string, args ...string) string {
		t.Helper()
		out, _ := command(t, wantStatus, append(args, "--json", "--socket", w.Proc.Socket)...)
		matches(t, schema, out)
		return out
	}
	contains(t, ask(0, "status", "status"), `"last_reload":null`)
	must(t, w.Send[cases.One].Send(cases.UDP(w.Net.Router, cases.MAC1, cases.Two4, cases.X4, 8)))
	must(t, w.Send[cases.One].Send(cases.UDP(w.Net.Router, cases.MAC1, cases.One4, cases.Two4, 8)))
	w.Settle(cases.One)
	contains(t, ask(0, "flows", "flows"), `"shadow":true`)
	contains(t, ask(0, "drops", "drops"), `"ip-binding"`, `"ingress-policy"`)
	contains(t, ask(0, "neighbours", "neighbours"), `"gateway":true`, `"vif1.0"`)
	contains(t, ask(0, "vif-list", "vif", "list"), `"vifs":[]`)
	contains(t, ask(0, "reload", "reload"), `"error":""`)
	path, err := w.Lab.ConfigPath()
	must(t, err)
	must(t, os.WriteFile(path, []byte("uplink {}\n"), 0o644))
	contains(t, ask(1, "reload", "reload"), `"diagnostics":[{"file"`)
	contains(t, ask(0, "status", "status"), `"last_reload":{"at"`, `"drop_examples":{"ip-binding"`, `"host_uplink":[{"rule"`)

	top := exec.CommandContext(testContext(t), wire.Exe, "top", "--json", "--every", "100ms", "--socket", w.Proc.Socket)
	out, err := top.StdoutPipe()
	must(t, err)
	must(t, top.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	must(t, err)
	matches(t, "top", line)
	must(t, top.Process.Signal(os.Interrupt))
	must(t, top.Wait())
}
