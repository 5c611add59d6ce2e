package integration

import (
	"bytes"
	"testing"

	"udrouter/integration/lab"
)

// open is a policy that admits what the checks use; the rest of a file is put around it.
const open = `
policy "open" {
  ingress {
    default = "accept"
  }
}
host {}
`

const guests = `
domu "one" {
  vif    = "vif1.0"
  mac    = "00:16:3e:00:00:01"
  ipv4   = ["192.0.2.10"]
  ipv6   = ["2001:db8:3:2:1::10"]
  policy = "open"
}
domu "two" {
  vif    = "vif2.0"
  mac    = "00:16:3e:00:00:02"
  ipv4   = ["192.0.2.11"]
  ipv6   = ["2001:db8:3:2:1::11"]
  policy = "open"
}
bridge "xenbr0" {}
`

const routed4 = `
network "v4" {
  prefix   = "192.0.2.0/24"
  gateway  = "192.0.2.1"
  upstream = "routed"
}
`

// Each way in which a provider brings prefixes to a server. In each the lab shows all that it shows of the reference
// network: who reaches whom, by which hops, what is answered on the uplink, what does not get out, and that dom0's own
// connections live on.
var topologies = []struct{ name, src string }{
	{"reference: routed v4, proxied v6, gateway6 in the prefix", ""},
	{"proxied v4", open + guests + `
uplink "eth0" { gateway4 = "192.0.2.62" }
network "v4" {
  prefix   = "192.0.2.0/26"
  gateway  = "192.0.2.1"
  upstream = "proxied"
}
network "v6" {
  prefix   = "2001:db8:3:2::/64"
  gateway  = "2001:db8:3:2:1::1"
  upstream = "proxied"
}`},
	{"routed v6, gateway6 outside the prefix", open + guests + routed4 + `
uplink "eth0" {
  gateway4 = "192.0.1.1"
  gateway6 = "2001:db8:ff::1"
}
network "v6" {
  prefix   = "2001:db8:3:2::/64"
  gateway  = "2001:db8:3:2:1::1"
  upstream = "routed"
}`},
	{"proxied v6, gateway6 outside the prefix", open + guests + routed4 + `
uplink "eth0" {
  gateway4 = "192.0.1.1"
  gateway6 = "2001:db8:3:1::1"
}
network "v6" {
  prefix   = "2001:db8:3:2::/64"
  gateway  = "2001:db8:3:2:1::1"
  upstream = "proxied"
}`},
	{"proxied v6, gateway6 link-local, gateway fe80::1", open + guests + routed4 + `
uplink "eth0" {
  gateway4 = "192.0.1.1"
  gateway6 = "fe80::99"
}
network "v6" {
  prefix   = "2001:db8:3:2::/64"
  gateway  = "fe80::1"
  upstream = "proxied"
}`},
	{"gateways from the kernel's routes", open + guests + routed4 + `
uplink "eth0" {}
network "v6" {
  prefix   = "2001:db8:3:2::/64"
  gateway  = "2001:db8:3:2:1::1"
  upstream = "proxied"
}`},
	{"a guest bound to a prefix, answers learned", open + routed4 + `
uplink "eth0" {
  gateway4 = "192.0.1.1"
  gateway6 = "2001:db8:3:2::1"
}
bridge "xenbr0" {}
network "v6" {
  prefix   = "2001:db8:3:2::/64"
  gateway  = "2001:db8:3:2:1::1"
  upstream = "proxied"
  proxy {
    answer   = "learned"
    override = true
    source   = "target"
  }
}
domu "one" {
  vif    = "vif1.0"
  mac    = "00:16:3e:00:00:01"
  ipv4   = ["192.0.2.16/28"]
  ipv6   = ["2001:db8:3:2:a::/80"]
  policy = "open"
}
domu "two" {
  vif    = "vif2.0"
  mac    = "00:16:3e:00:00:02"
  ipv4   = ["192.0.2.11"]
  ipv6   = ["2001:db8:3:2:1::11"]
  policy = "open"
}`},
	{"v4 only, no host block", `
policy "open" {
  ingress {
    default = "accept"
  }
}
uplink "eth0" {}
bridge "xenbr0" {}
` + routed4 + `
domu "one" {
  vif    = "vif1.0"
  mac    = "00:16:3e:00:00:01"
  ipv4   = ["192.0.2.10"]
  policy = "open"
}
domu "two" {
  vif    = "vif2.0"
  mac    = "00:16:3e:00:00:02"
  ipv4   = ["192.0.2.11"]
  policy = "open"
}`},
}

func TestTopologies(t *testing.T) {
	for _, c := range topologies {
		t.Run(c.name, func(t *testing.T) {
			l := buildLab(t, c.src, lab.Options{})
			p := startRouter(t, l)
			var report bytes.Buffer
			held, err := l.Show(testContext(t), &report, lab.ShowOptions{Router: p, Enforced: true})
			if err != nil || !held {
				t.Errorf("held %v, %v\n%s", held, err, report.String())
			}
		})
	}
}
