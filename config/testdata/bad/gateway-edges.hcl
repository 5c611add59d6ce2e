uplink "eth0" {
  gateway4 = "192.0.1.1"
  gateway6 = "2001:db8:3:2::1"
}

bridge "xenbr0" {}

network "a" {
  prefix   = "192.0.2.0/24"
  gateway  = "192.0.2.0"
  upstream = "routed"
}

network "b" {
  prefix   = "198.51.100.0/24"
  gateway  = "198.51.100.255"
  upstream = "routed"
}
