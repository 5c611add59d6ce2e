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

domu "one" {
  mac = "00:16:3e:00:00:01"
  ipv4 = ["224.0.0.5", "0.0.0.0", "127.0.0.1", "169.254.1.1"]
  ipv6 = ["::1", "ff02::5", "::ffff:192.0.2.10", "fe80::5%eth0", "2001:db8:3:2:zz::1"]
}
