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


domu "a" {
  match     = "web-*"
  vif       = "vif1.0"
  mac       = "00:16:3e:00:00:01"
  ipv4      = ["192.0.2.10"]
  ipv6      = []
  networks  = ["v5", "other-network"]
  addresses = 0
  prefix6   = 129
  policy    = "p"
}
domu "b" {
  match    = ""
  networks = []
}
domu "c" {
  match = "web-[0-9]"
}
domu "d" {
  match = any
}
domu "e" {
  mac       = "00:16:3e:00:00:02"
  networks  = ["v4"]
  addresses = 1
  prefix6   = 64
}
domu "a" {
  match = "any"
}
test "no IPv6 in its networks" {
  from   = "domu:f"
  dst    = "2001:db8:ffff::1"
  proto  = "tcp"
  port   = 80
  expect = "accept"
}
domu "f" {
  match    = "f*"
  networks = ["v4"]
}
