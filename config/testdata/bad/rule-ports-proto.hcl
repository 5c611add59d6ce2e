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

policy "p" {
  ingress {
    rule "a" {
      action = "accept"
      proto = "icmp"
      ports = [1]
    }
    rule "b" {
      action = "accept"
      proto = "icmpv6"
      ports = [1]
    }
    rule "c" {
      action = "accept"
      proto = 47
      ports = [1]
    }
    rule "d" {
      action = "accept"
      ports = [22]
    }
    rule "e" {
      action = "accept"
      proto = "tpc"
      ports = 22
    }
  }
}
