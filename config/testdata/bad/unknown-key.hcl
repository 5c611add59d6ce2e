uplink "eth0" {
  gateway4 = "192.0.1.1"
  gateway6 = "2001:db8:3:2::1"
}

bridge "xenbr0" {}

network "v4" {
  prefix   = "192.0.2.0/24"
  gateway  = "192.0.2.1"
  upstream = "routed"
}

network "v6" {
  prefix   = "2001:db8:3:2::/64"
  gateway  = "2001:db8:3:2:1::1"
  upstream = "proxied"
}

tapp = "udr0"

proxy = 1

domu "one" {
  mac = "00:16:3e:00:00:01"
  ip4 = ["192.0.2.10"]
  polcy = "p"
  matches = "web*"
  ipv4 "x" {
  }
}

network "x" {
  prefix   = "198.51.100.0/24"
  gateway  = "198.51.100.1"
  upstream = "proxied"
  gatway = "198.51.100.1"
  proxy = "bound"
}
