uplink "eth0" {
  gateway4 = "192.0.1.1"
  gateway6 = "2001:db8:3:2::1"
}

bridge "xenbr0" {}

network "v4" {
  prefix = 192.0.2.0/24
}

domu "one" {
  mac = 00:16:3e:00:00:01
}
