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
  gateway  = "fe80::ffff"
  upstream = "proxied"
}

domu "one" {
  mac = "00:16:3e:00:00:01"
  ipv6 = ["fe80::1", "fe80::ffff", "fe80::/64", "fe80::5"]
}

domu "two" {
  mac = "00:16:3e:00:00:02"
  ipv6 = ["fe80::5"]
}

domu "three" {
  mac = "00:16:3e:00:00:03"
  ipv6 = ["fe80::216:3eff:fe00:4"]
}

domu "four" {
  mac = "00:16:3e:00:00:04"
}
