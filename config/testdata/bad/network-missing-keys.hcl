uplink "eth0" {
  gateway4 = "192.0.1.1"
  gateway6 = "2001:db8:3:2::1"
}

bridge "xenbr0" {}

network "v4" {}
