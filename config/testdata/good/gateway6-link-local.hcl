uplink "eth0" {
  gateway6 = "fe80::1"
}

bridge "xenbr0" {}

network "v6" {
  prefix   = "2001:db8:3:2::/64"
  gateway  = "fe80::1"
  upstream = "proxied"
}

domu "one" {
  mac = "00:16:3e:00:00:01"
  ipv6 = ["2001:db8:3:2:aaaa::/80", "fe80::5"]
}
