# Written by udrouter import. `udrouter check -c FILE` refuses it as long as a TODO is in it; look at the rest as well.
#
# Not carried over:
# - no rules of iptables were given (--iptables): nobody opens connections of that family to guests, or from guests to
#   dom0; what reaches dom0 by the uplink is left to dom0's own firewall
# - no rules of ip6tables were given (--ip6tables): nobody opens connections of that family to guests, or from guests
#   to dom0; what reaches dom0 by the uplink is left to dom0's own firewall
# - which addresses belong to one guest no file says: merge domu blocks of the same guest
#
# Carried over, with something to do or to know:
# - interfaces, lines 12 20: it is the network's gateway now: take it off br0
#
# Not needed any more; take it out of the old files, but rules of one chain only all together:
# - interfaces:21: udrouter answers for each address that a domu block binds
# - ndppd.conf:2: autowire yes: guests are bound, and udrouter keeps their neighbour entries itself
# - ndppd.conf:9: guests find the router by itself on their side, and each other through it
#
# Stays in the old files:
# - interfaces:1: auto eno1: the interfaces that go are named below
# - interfaces, lines 2 3 4 5 6: dom0's own
# - interfaces:8: pre-down /sbin/ip -6 route del default via 2001:db8:7:ff:ff:ff:ff:ff dev eno1: it undoes an up line:
#   treat it as that
# - interfaces, lines 10 11 14 15 16 17 19 24: the bridge stays, without addresses

uplink "eno1" {
  gateway6 = "2001:db8:7:ff:ff:ff:ff:ff"
}

bridge "br0" {
}

# interfaces:12
network "v4" {
  prefix   = "192.0.2.128/27"
  gateway  = "192.0.2.129"
  upstream = "routed"
}

# interfaces:20
network "v6" {
  prefix   = "2001:db8:7:8::/64"
  gateway  = "2001:db8:7:8::100"
  upstream = "proxied"

  proxy {
    router = false
    ttl    = "1m30s"
  }
}

# interfaces:23
domu "guest-2001-db8-7-8--131" {
  vif  = "vif7.0"
  mac  = "TODO: the guest's MAC"
  ipv6 = ["2001:db8:7:8::131"]
}

# interfaces:21
domu "guest-2001-db8-7-8--130" {
  vif  = "TODO: the guest's vif; without this line, hotplug (script=vif-udrouter in Xen's file) finds it by the MAC"
  mac  = "TODO: the guest's MAC"
  ipv6 = ["2001:db8:7:8::130", "2001:db8:7:8:a::/80"]
}

host {
  ingress {
    default = "drop"
  }
}
