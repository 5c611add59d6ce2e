uplink "eth0" {
  address4 = "192.0.1.3"
}

bridge "xenbr0" {
  mtu = 576
  mac = "02:00:00:00:00:01"
  isolate = false
}

network "v4" {
  prefix   = "192.0.1.0/26"
  gateway  = "192.0.1.3"
  upstream = "proxied"
  proxy {
    answer = "learned"
    ttl = "24h"
    timeout = "10s"
    announce = false
  }
}

network "p2p" {
  prefix   = "198.51.100.0/31"
  gateway  = "198.51.100.0"
  upstream = "routed"
}

domu "one" {
  mac = "00:16:3e:00:00:01"
  ipv4 = ["198.51.100.1"]
  ipv6 = []
}
