package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"text/template"

	"udrouter/config"
)

// The ports that the measures use; no rule but the last concerns them.
const (
	tcpPort = 443
	udpPort = 4433 // the guests'; the internet's are those of the flows
)

// shape is what varies of a network under test.
type shape struct {
	Guests int // at most 254
	Rules  int // in each of the two chains, the last admits all; at least 1
	Flows  int // that one guest may have
}

var usual = shape{Guests: 1, Rules: 10, Flows: 1 << 18}

// source is the configuration file of a shape: the reference's network with other guests and another policy.
func (s shape) source() ([]byte, error) {
	var b bytes.Buffer
	if err := file.Execute(&b, s); err != nil {
		return nil, fmt.Errorf("writing the configuration: %w", err)
	}
	return b.Bytes(), nil
}

func (s shape) config() (*config.Config, []byte, error) {
	src, err := s.source()
	if err != nil {
		return nil, nil, err
	}
	cfg, diags := config.Parse("bench.hcl", src)
	if diags.HasErrors() {
		return nil, nil, diags
	}
	return cfg, src, nil
}

var file = template.Must(template.New("bench.hcl").Funcs(template.FuncMap{
	"add": func(a, b int) int { return a + b },
	"rules": func(n int) []int { // but for the last
		list := make([]int, n-1)
		for i := range list {
			list[i] = i
		}
		return list
	},
	"rule": func(i int) string {
		proto, ports := "tcp", fmt.Sprintf("%d", firstPort+portsApart*i)
		if i%2 == 1 {
			proto = "udp"
		}
		if i%4 > 1 {
			ports = fmt.Sprintf(`"%s-%d"`, ports, firstPort+portsApart*i+portsApart-1)
		}
		return fmt.Sprintf(`proto = %q
      ports = [%s]`, proto, ports)
	},
	"guests": func(n int) []netip.Addr {
		list := make([]netip.Addr, n)
		a := netip.MustParseAddr("198.18.1.1")
		for i := range list {
			list[i] = a
			a = a.Next()
		}
		return list
	},
}).Parse(`uplink "eth0" {
  gateway4 = "192.0.1.1"
  gateway6 = "2001:db8:3:2::1"
}
bridge "xenbr0" {}
network "v4" {
  prefix   = "198.18.0.0/16"
  gateway  = "198.18.0.1"
  upstream = "routed"
}
network "v6" {
  prefix   = "2001:db8:3:2::/64"
  gateway  = "2001:db8:3:2:1::1"
  upstream = "proxied"
}
{{define "chain"}}    default = "drop"
{{- range rules .Rules}}
    rule "other{{.}}" {
      action = "drop"
      {{rule .}}
    }
{{- end}}
    rule "measured" {
      action = "accept"
    }
{{end -}}
policy "measured" {
  egress {
{{template "chain" .}}  }
  ingress {
{{template "chain" .}}  }
  limits {
    flows = {{.Flows}}
  }
}
{{- range $i, $a := guests .Guests}}
domu "g{{$i}}" {
  vif    = "vif{{add $i 1}}.0"
  mac    = "{{printf "00:16:3e:00:01:%02x" $i}}"
  ipv4   = ["{{$a}}"]
  ipv6   = ["{{printf "2001:db8:3:2:1::%x" (add $i 16)}}"]
  policy = "measured"
}
{{- end}}
host {}
`))

// The ports of the rules that match nothing.
const firstPort, portsApart = 10000, 5
