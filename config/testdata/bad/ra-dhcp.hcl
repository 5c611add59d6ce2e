uplink "eth0" {}
bridge "xenbr0" {}
network "v4" {
  prefix   = "192.0.2.0/24"
  gateway  = "192.0.2.1"
  upstream = "routed"
  ra {}
  dhcp {
    lease = "0s"
    dns   = ["2001:db8::53", "224.0.0.1", 53]
  }
}
network "v6" {
  prefix   = "2001:db8:3:2::/64"
  gateway  = "2001:db8:3:2:1::1"
  upstream = "proxied"
  ra {
    lifetime = "3h"
    dns      = ["192.0.2.1"]
    prefix   = "2001:db8:3:2::/64"
    on_link  = "true"
  }
}
