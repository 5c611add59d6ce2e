package router

import (
	"testing"

	"udrouter/config"
	"udrouter/policy"
)

const templateFile = `uplink "eth0" {
  gateway4 = "192.0.1.1"
}
bridge "xenbr0" {}
network "v4" {
  prefix   = "192.0.2.0/24"
  gateway  = "192.0.2.1"
  upstream = "routed"
}
policy "db" {
  ingress {
    rule "from web" {
      action = "accept"
      proto  = "tcp"
      ports  = [5432]
      from   = ["domu:web"]
    }
  }
}
domu "db" {
  mac    = "00:16:3e:00:00:01"
  ipv4   = ["192.0.2.10"]
  policy = "db"
}
domu "web" {
  match = "web-*"
}
domu "rest" {
  match = "any"
}
test "web reaches the database" {
  from   = "domu:web"
  to     = "domu:db"
  proto  = "tcp"
  port   = 5432
  expect = "accept"
  rule   = "from web"
}
test "others do not" {
  from   = "domu:rest"
  to     = "domu:db"
  proto  = "tcp"
  port   = 5432
  expect = "drop"
}
test "nor does anyone reach them" {
  from   = "domu:db"
  to     = "domu:rest"
  proto  = "icmp"
  expect = "drop"
}
`

// In test blocks and for explain a template is a guest of it.
func TestTemplateStandsIn(t *testing.T) {
	cfg := parseConfig(t, templateFile)
	results, err := RunTests(cfg)
	if err != nil || len(results) != 3 {
		t.Fatal(results, err)
	}
	for _, r := range results {
		if r.Failed != "" {
			t.Errorf("%s: %s %v", r.Name, r.Failed, r.Steps[0].Answers)
		}
	}
}

// A rule that names a template is about all of its guests, and no others.
func TestRuleNamesTemplate(t *testing.T) {
	cfg := parseConfig(t, templateFile).Attach([]config.Attachment{
		{Vif: "vif1.0", Index: 1, Domain: "web-1", MAC: "00:16:3e:00:00:11", Addresses: []string{"192.0.2.21"}},
		{Vif: "vif2.0", Index: 2, Domain: "web-2", MAC: "00:16:3e:00:00:12", Addresses: []string{"192.0.2.22"}},
		{Vif: "vif3.0", Index: 3, Domain: "other", MAC: "00:16:3e:00:00:13", Addresses: []string{"192.0.2.23"}},
	})
	e, err := NewExplainer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"web-1": "accept", "web-2": "accept", "web": "accept", "other": "drop", "rest": "drop"}
	for from, verdict := range want {
		q := policy.Question{From: policy.Peer{Kind: policy.PeerDomu, Domu: from}, To: policy.Peer{Kind: policy.PeerDomu, Domu: "db"}, Proto: policy.ProtoTCP, Port: 5432}
		answers, err := e.Explain(q)
		if err != nil || len(answers) != 1 || answers[0].Verdict != verdict {
			t.Errorf("from %s: %v, %v, want %s\n%+v", from, answers, err, verdict, cfg.Attached)
		}
	}
}
