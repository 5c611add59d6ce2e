uplink "eth0" {
  gateway6 = "2001:db8:ffff::1"
}

bridge "xenbr0" {}

network "v6" {
  prefix   = "2001:db8:3:2::/64"
  gateway  = "2001:db8:3:2:1::1"
  upstream = "proxied"
}
