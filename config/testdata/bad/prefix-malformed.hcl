uplink "eth0" {
  gateway4 = "192.0.1.1"
  gateway6 = "2001:db8:3:2::1"
}

bridge "xenbr0" {}

network "v4" {
  prefix   = "192.0.2.0/33"
  gateway  = "192.0.2.1"
  upstream = "routed"
}

network "a" {
  prefix   = "192.0.2/24"
  gateway  = "192.0.2.1"
  upstream = "routed"
}

network "b" {
  prefix   = "2001:db8:3:2::/200"
  gateway  = "fe80::1"
  upstream = "routed"
}

network "c" {
  prefix   = " 192.0.2.0/24"
  gateway  = "192.0.2.1"
  upstream = "routed"
}

network "d" {
  prefix   = ""
  gateway  = "192.0.2.1"
  upstream = "routed"
}

network "e" {
  prefix   = "00:16:3e:00:00:01"
  gateway  = "192.0.2.1"
  upstream = "routed"
}
