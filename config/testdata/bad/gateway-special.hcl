uplink "eth0" {
  gateway4 = "192.0.1.1"
  gateway6 = "2001:db8:3:2::1"
}

bridge "xenbr0" {}

network "v4" {
  prefix   = "192.0.2.0/24"
  gateway  = "224.0.0.1"
  upstream = "routed"
}

network "v6" {
  prefix   = "2001:db8:3:2::/64"
  gateway  = "fe80::1%eth0"
  upstream = "routed"
}

network "m" {
  prefix   = "203.0.113.0/24"
  gateway  = "::ffff:203.0.113.1"
  upstream = "routed"
}

network "l" {
  prefix   = "198.51.100.0/24"
  gateway  = "198.51.100.1/24"
  upstream = "routed"
}
