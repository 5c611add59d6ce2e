uplink "eth0" {
  gateway4 = "192.0.1.1"
  gateway6 = "2001:db8:3:2::1"
}

bridge "xenbr0" {}

network "v6" {
  prefix   = "2001:db8:3:2::/64"
  gateway  = "fe80::1"
  upstream = "proxied"
  proxy {
    answer   = "learnt"
    router   = "yes"
    override = 0
    ttl      = 30
    timeout  = "11s"
    announce = yes
    source   = "global"
  }
}

network "b" {
  prefix   = "2001:db8:3:3::/64"
  gateway  = "fe80::1"
  upstream = "proxied"
  proxy {
    ttl     = "25h"
    timeout = "-1s"
  }
}

network "c" {
  prefix   = "2001:db8:3:4::/64"
  gateway  = "fe80::1"
  upstream = "proxied"
  proxy {
    ttl     = "0s"
    timeout = "half a second"
  }
}
