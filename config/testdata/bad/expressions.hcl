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
  vif = vif1.0
  policy = untrusted
}

domu "two" {
  mac = "00:16:3e:00:00:02"
  vif = "vif${2}.0"
  policy = lower("P")
}

domu "three" {
  mac = "00:16:3e:00:00:03"
  vif = var.vif
  ipv4 = [for a in ["192.0.2.10"] : a]
  ipv6 = concat([], [])
}

log {
  level  = null
  format = { a = 1 }
}

control {
  socket = true ? "/a" : "/b"
  group  = !true
}

metrics {
  listen = "a" == "b"
}
