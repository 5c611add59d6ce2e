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
  mac  = "00:16:3e:00:00:01"
  ipv4 = ["192.0.2.10"]
}

test "forged" {
  from   = "host"
  dst    = "198.51.100.7"
  proto  = "icmp"
  expect = "accept"
  forge  = "mac"
  open   = true
  then   = "drop"
}

test "not forgeable" {
  from   = "uplink"
  src    = "198.51.100.7"
  to     = "domu:one"
  expect = "drop"
  forge  = "ra"
  then {
    forge = "source"
    src   = "198.51.100.7"
    proto = "udp"
  }
  then {
    expect = "drop"
    proto  = "udp"
    port   = 53
    forge  = "flags"
  }
  then {
    expect = "drop"
    proto  = "udp"
    forge  = "arp"
  }
  then {
    expect = "drop"
    src    = "2001:db8::1"
    forge  = "arp"
  }
  then {
    expect = "drop"
    forge  = "arps"
    open   = true
  }
}

test "said once" {
  from   = "domu:two"
  dst    = "198.51.100.7"
  proto  = "tcpp"
  expect = "drop"
  then {
    expect = "drop"
  }
}

test "no connection" {
  from   = "domu:one"
  dst    = "198.51.100.7"
  proto  = 47
  open   = true
  expect = "accept"
}

test "no connection either" {
  from   = "domu:one"
  dst    = "198.51.100.7"
  open   = true
  forge  = "dhcp"
  expect = "drop"
}
