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
    rule "r0" {
      action = "accept"
      proto = "tpc"
    }
    rule "r1" {
      action = "accept"
      proto = "gre"
    }
    rule "r2" {
      action = "accept"
      proto = "any"
    }
    rule "r3" {
      action = "accept"
      proto = 256
    }
    rule "r4" {
      action = "accept"
      proto = "256"
    }
    rule "r5" {
      action = "accept"
      proto = -1
    }
    rule "r6" {
      action = "accept"
      proto = 6.5
    }
    rule "r7" {
      action = "accept"
      proto = true
    }
    rule "r8" {
      action = "accept"
      proto = ["tcp"]
    }
    rule "r9" {
      action = "accept"
      proto = "icmp6"
    }
  }
}
