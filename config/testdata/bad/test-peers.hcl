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
  ipv4 = ["192.0.2.10"]
}

test "t0" {
  from = "uplink"
  to = "domu:one"
  proto = "icmp"
  expect = "accept"
}

test "t1" {
  from = "domu:onee"
  to = "host"
  proto = "icmp"
  expect = "accept"
}

test "t2" {
  from = "one"
  to = "one"
  proto = "icmp"
  expect = "accept"
}

test "t3" {
  from = "192.0.2.10"
  to = "198.51.100.7"
  proto = "icmp"
  expect = "accept"
}

test "t4" {
  from = "hots"
  to = "uplink"
  proto = "icmp"
  expect = "accept"
}

test "t5" {
  from = "host"
  to = "domu:one"
  dst = "192.0.2.10"
  proto = "icmp"
  expect = "accept"
}

test "t6" {
  from = "host"
  dst = "www.example.org"
  proto = "icmp"
  expect = "accept"
}

test "t7" {
  from = ["host"]
  dst = "192.0.2.0/24"
  proto = "icmp"
  expect = "accept"
}
