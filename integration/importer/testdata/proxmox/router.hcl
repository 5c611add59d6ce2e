# Written by udrouter import. `udrouter check -c FILE` refuses it as long as a TODO is in it; look at the rest as well.
#
# Not carried over:
# - interfaces:10: bridge-ports enp1s0: guests are on the provider's switch here: give vmbr0's address and gateway to
#   enp1s0, and leave a bridge without enp1s0 to the guests
# - interfaces:20: post-up iptables -t nat -A POSTROUTING -s 192.0.2.0/24 -o vmbr0 -j MASQUERADE: udrouter does not
#   translate addresses: give guests addresses of their own; what dom0 translates for itself stays
# - no rules of ip6tables were given (--ip6tables): nobody opens connections of that family to guests, or from guests
#   to dom0; what reaches dom0 by the uplink is left to dom0's own firewall
# - no guest was found, and nothing passes that no domu block binds: give the guests' files with --xl, or write a domu
#   block for each
#
# Carried over, with something to do or to know:
# - interfaces:16: address 192.0.2.1/24: it is the network's gateway now: take it off vmbr1
# - interfaces:24: address fe80::1/64: guests reach the router there: take it off vmbr1
#
# Stays in the old files:
# - interfaces:1: auto lo: the interfaces that go are named below
# - interfaces, lines 2 4: dom0's own
# - interfaces:6: auto vmbr0: the interfaces that go are named below
# - interfaces, lines 7 8 11 12: dom0's own
# - interfaces, lines 14 15 17 21 23: the bridge stays, without addresses

uplink "enp1s0" {
  gateway4 = "203.0.113.129"
  address4 = "203.0.113.130"
}

bridge "vmbr1" {
}

# interfaces:16
network "v4" {
  prefix   = "192.0.2.0/24"
  gateway  = "192.0.2.1"
  upstream = "routed"
}

# interfaces:25
network "v6" {
  prefix   = "2001:db8:9::/48"
  gateway  = "fe80::1"
  upstream = "routed"
}

policy "imported" {
  egress {
    default = "accept"
    # host.ingress decides
    rule "to-dom0" {
      action = "accept"
      to     = ["host"]
    }
    # their ingress decides
    rule "to-guests" {
      action = "accept"
      to     = ["192.0.2.0/24", "2001:db8:9::/48"]
    }
    # interfaces:18
    rule "to-203.0.113.128/26" {
      action = "drop"
      to     = ["203.0.113.128/26"]
    }
  }
  ingress {
    default = "drop"
    rule "from-dom0" {
      action = "accept"
      from   = ["host"]
    }
    rule "other-ipv4" {
      action = "accept"
      from   = ["0.0.0.0/0"]
    }
  }
}

# domu "one" {
#   vif  = "vif1.0"
#   mac  = "00:16:3e:00:00:01"
#   ipv4 = ["..."]
#   ipv6 = ["..."]
#   policy = "imported"
# }

host {
  ingress {
    default = "drop"
  }
}
