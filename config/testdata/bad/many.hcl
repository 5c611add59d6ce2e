uplink "eth0" {
  gateway4 = "192.0.1.1/26"
}

bridge "xenbr0" {}

network "v6" {
  prefix   = "2001:db8:3:2:1::/64"
  gateway  = "2001:db8:3:2:1::1"
  upstream = "proxy"
}

domu "one" {
  mac = "00:16:3e:00:00:01"
  ipv4 = ["192.0.2.10"]
  policy = "nobody"
  colour = "red"
}

domu "two" {
  mac = "00:16:3e:00:00:01"
  ipv6 = ["2001:db8:3:2:1::10"]
}
