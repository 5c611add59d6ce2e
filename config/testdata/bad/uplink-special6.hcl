uplink "eth0" {
  gateway4 = "0.0.0.0"
  gateway6 = "::"
  address4 = "224.0.0.1"
}

bridge "xenbr0" {}

network "v4" {
  prefix   = "192.0.2.0/24"
  gateway  = "192.0.2.1"
  upstream = "routed"
}
