uplink "eth0" {
  gateway4 = "255.255.255.255"
  gateway6 = "ff02::2"
  address4 = "127.0.0.1"
}

bridge "xenbr0" {}

network "v4" {
  prefix   = "192.0.2.0/24"
  gateway  = "192.0.2.1"
  upstream = "routed"
}
