# Written by udrouter import. `udrouter check -c FILE` refuses it as long as a TODO is in it; look at the rest as well.
#
# Not carried over:
# - interfaces:10: pre-up iptables-restore < /etc/iptables.rules: the rules that it loads were not read: give their
#   file with --iptables
# - no rules of iptables were given (--iptables): nobody opens connections of that family to guests, or from guests to
#   dom0; what reaches dom0 by the uplink is left to dom0's own firewall
# - which addresses belong to one guest no file says: merge domu blocks of the same guest
#
# Carried over, with something to do or to know:
# - interfaces, lines 27 31: it is the network's gateway now: take it off dummy0
#
# Not needed any more; take it out of the old files, but rules of one chain only all together:
# - ip6tables.rules:5: -A INPUT -i lo -j ACCEPT: it matches nothing that udrouter has to do with: neither a guest nor
#   dom0 by the uplink
# - ip6tables.rules:6: -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT: replies and related errors pass
#   by state
# - interfaces:20: up ip -6 route del 2001:DB8:3:2:1::/64 dev eth0: udrouter adds the routes that lead dom0 to its
#   guests, and takes them away
# - interfaces:22: up sysctl -w net.ipv6.conf.all.forwarding=1 net.ipv6.conf.all.proxy_ndp=1: udrouter answers for
#   each address that a domu block binds
# - interfaces:23: up ifconfig eth0 promisc: udrouter's filter on the uplink admits what concerns the guests
# - interfaces, lines 25 26 28 30 32: no interface has to hold the guests' gateways
# - interfaces, lines 33 34: udrouter answers for each address that a domu block binds
# - interfaces:35: up ifconfig dummy0 promisc: udrouter's filter on the uplink admits what concerns the guests
# - ndppd.conf:2: route-ttl 30000: udrouter hears of changed routes and addresses at once
#
# Stays in the old files:
# - interfaces:2: auto lo: the interfaces that go are named below
# - interfaces:3: iface lo inet loopback: dom0's own
# - interfaces:5: auto eth0: the interfaces that go are named below
# - interfaces, lines 6 7 8 12 13 14 16: dom0's own
# - interfaces, lines 17 19: it undoes an up line: treat it as that
# - interfaces:21: pre-up ip6tables-restore < /etc/ip6tables.rules: its rules were read from where they were given,
#   and hold beside udrouter's as long as it is here

uplink "eth0" {
  gateway4 = "192.0.1.1"
  gateway6 = "2001:db8:3:2::1"
  address4 = "192.0.1.3"
}

bridge "TODO: the bridge that joins the guests' vifs" {
}

# interfaces:27
network "v4" {
  prefix   = "192.0.2.0/24"
  gateway  = "192.0.2.1"
  upstream = "routed"
}

# interfaces:31
network "v6" {
  prefix   = "2001:db8:3:2::/64"
  gateway  = "2001:db8:3:2:1::1"
  upstream = "proxied"

  proxy {
    answer  = "learned" # as ndppd: for guests that are there
    router  = true
    ttl     = "30s"
    timeout = "500ms"
  }
}

policy "imported" {
  egress {
    default = "accept"
  }
  ingress {
    default = "drop"
    rule "from-dom0" {
      action = "accept"
      from   = ["host"]
    }
    rule "other-ipv6" {
      action = "accept"
      from   = ["::/0"]
    }
  }
}

# interfaces:33
domu "guest-2001-db8-3-2-1--10" {
  vif    = "TODO: the guest's vif; without this line, hotplug (script=vif-udrouter in Xen's file) finds it by the MAC"
  mac    = "TODO: the guest's MAC"
  ipv6   = ["2001:db8:3:2:1::10"]
  policy = "imported"
}

host {
  ingress {
    default = "drop"
    # ip6tables.rules:8
    rule "tcp-22" {
      action = "accept"
      proto  = "tcp"
      ports  = [22]
      from   = ["::/0"]
    }
    # ip6tables.rules:9
    rule "icmpv6" {
      action = "accept"
      proto  = "icmpv6"
    }
  }
  uplink {
    default = "drop"
    # ip6tables.rules:8
    rule "tcp-22" {
      action = "accept"
      proto  = "tcp"
      ports  = [22]
      from   = ["::/0"]
    }
    # ip6tables.rules:9
    rule "icmpv6" {
      action = "accept"
      proto  = "icmpv6"
    }
    rule "other-ipv4" {
      action = "accept"
      from   = ["0.0.0.0/0"]
    }
  }
}
