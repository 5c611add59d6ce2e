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

test "t0" {
  from = "host"
  dst = "198.51.100.7"
  proto = "tcp"
  expect = "accept"
}

test "t1" {
  from = "host"
  dst = "198.51.100.7"
  proto = 17
  expect = "accept"
}

test "t2" {
  from = "host"
  dst = "198.51.100.7"
  proto = "icmp"
  port = 8
  expect = "accept"
}

test "t3" {
  from = "host"
  dst = "198.51.100.7"
  proto = "tcp"
  port = 0
  expect = "accept"
}

test "t4" {
  from = "host"
  dst = "198.51.100.7"
  proto = "tcp"
  port = 65536
  expect = "accept"
}

test "t5" {
  from = "host"
  dst = "198.51.100.7"
  proto = "tcp"
  port = "https"
  expect = "accept"
}

test "t6" {
  from = "host"
  dst = "198.51.100.7"
  port = 80
  expect = "accept"
}
