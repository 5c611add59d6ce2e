# Written by udrouter import. `udrouter check -c FILE` refuses it as long as a TODO is in it; look at the rest as well.
#
# Not carried over:
# - iptables.rules:2: *nat: udrouter does not translate addresses: give guests addresses of their own; what dom0
#   translates for itself stays
# - iptables.rules:3: :PREROUTING ACCEPT [0:0]: udrouter does not translate addresses: give guests addresses of their
#   own; what dom0 translates for itself stays
# - iptables.rules:4: -A POSTROUTING -s 10.0.0.0/8 -o enp0s31f6 -j MASQUERADE: udrouter does not translate addresses:
#   give guests addresses of their own; what dom0 translates for itself stays
# - iptables.rules:13: -A INPUT -m conntrack --ctstate INVALID -j DROP: host.uplink does not ask for invalid packets:
#   its default drops them, its rules let them to dom0's own stack, which checks; keep this rule in dom0's iptables to
#   be as strict
# - iptables.rules:14: -A INPUT -p icmp -m icmp --icmp-type 8 -m limit --limit 5/sec -j ACCEPT: udrouter's rules
#   cannot say "--limit 5/sec"; without the rule less is accepted, which is the safer side; host.uplink has no types
#   of icmp: a rule for the protocol would admit timestamp requests and redirects besides echo; if that is acceptable,
#   add rule "ping" { action = "accept", proto = "icmp" }, on lines of its own
# - iptables.rules:26: -A guests -d 198.51.100.3/32 -p tcp --dport 25 -m set --match-set spammers src -j DROP: only in
#   part: udrouter's rules cannot say "--match-set spammers src": the rule is there with the action TODO, and drops
#   more than before, which is the safer side, once you write "drop"; or delete it
# - interfaces.d/guests.cfg:8: up ip route add 203.0.113.77/32 dev vmbr0: no network holds 203.0.113.77/32: udrouter
#   wants one with its prefix and a gateway in it, then add a domu block for the guest
# - interfaces.d/guests.cfg:9: post-up /usr/local/bin/notify-team: this command is not understood, or stands in a
#   condition or has a variable of unknown value: see whether it is still needed, or write it out and import again
# - no rules of ip6tables were given (--ip6tables): nobody opens connections of that family to guests, or from guests
#   to dom0; what reaches dom0 by the uplink is left to dom0's own firewall
# - which addresses belong to one guest no file says: merge domu blocks of the same guest
#
# Carried over, with something to do or to know:
# - interfaces.d/guests.cfg, lines 3 12: it is the network's gateway now: take it off vmbr0
#
# Not needed any more; take it out of the old files, but rules of one chain only all together:
# - iptables.rules:11: [7:420] -A INPUT -i lo -j ACCEPT: it matches nothing that udrouter has to do with: neither a
#   guest nor dom0 by the uplink
# - iptables.rules:12: -A INPUT -m state --state ESTABLISHED,RELATED -j ACCEPT: replies and related errors pass by
#   state
# - iptables.rules:17: -A INPUT -m limit --limit 3/min -j LOG --log-prefix "dropped: ": it says nothing of what
#   passes; `udrouter drops` and `udrouter status` count
# - iptables.rules:18: -A FORWARD -m state --state ESTABLISHED,RELATED -j ACCEPT: replies and related errors pass by
#   state
# - iptables.rules:19: -A FORWARD -i enp0s31f6 -s 198.51.100.0/28 -j DROP: udrouter drops forged sources, whatever the
#   rules say
# - interfaces, lines 13 14: udrouter forwards, and dom0's kernel is not to: take it out, or set it to 0
#
# Stays in the old files:
# - interfaces:1: source interfaces.d/*.cfg: its files were read
# - interfaces.d/guests.cfg, lines 1 2 4 5 6 7 11: the bridge stays, without addresses
# - interfaces:3: auto lo: the interfaces that go are named below
# - interfaces, lines 4 5: dom0's own
# - interfaces:7: auto enp0s31f6: the interfaces that go are named below
# - interfaces, lines 8 9 10 12 16 17: dom0's own

uplink "enp0s31f6" {
  gateway4 = "203.0.113.1"
  gateway6 = "fe80::1"
  address4 = "203.0.113.5"
}

bridge "vmbr0" {
  mtu = 1400
}

# interfaces.d/guests.cfg:3
network "v4" {
  prefix   = "198.51.100.0/28"
  gateway  = "198.51.100.1"
  upstream = "routed"
}

# interfaces.d/guests.cfg:12
network "v6" {
  prefix   = "2001:db8:4:5::/64"
  gateway  = "2001:db8:4:5::3"
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
      to     = ["198.51.100.0/28", "2001:db8:4:5::/64"]
    }
    # iptables.rules:21
    rule "tcp-25" {
      action = "reject"
      proto  = "tcp"
      ports  = [25]
      from   = ["0.0.0.0/0"]
    }
  }
  ingress {
    default = "drop"
    rule "from-dom0" {
      action = "accept"
      from   = ["host"]
    }
    # iptables.rules:20
    rule "from-198.51.100.0/28" {
      action = "reject"
      from   = ["198.51.100.0/28"]
    }
    # iptables.rules:21
    rule "tcp-25" {
      action = "reject"
      proto  = "tcp"
      ports  = [25]
      from   = ["198.51.100.0/28"]
    }
    # iptables.rules:24
    rule "from-192.0.2.66" {
      action = "drop"
      from   = ["192.0.2.66"]
    }
    # iptables.rules:25
    rule "web server" {
      action = "accept"
      proto  = "tcp"
      ports  = [80, 443]
      from   = ["0.0.0.0/0"]
    }
    # iptables.rules:28
    rule "icmp" {
      action = "accept"
      proto  = "icmp"
    }
  }
}

policy "guest-198-51-100-3" {
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
      to     = ["198.51.100.0/28", "2001:db8:4:5::/64"]
    }
    # iptables.rules:21
    rule "tcp-25" {
      action = "reject"
      proto  = "tcp"
      ports  = [25]
      from   = ["0.0.0.0/0"]
    }
  }
  ingress {
    default = "drop"
    rule "from-dom0" {
      action = "accept"
      from   = ["host"]
    }
    # iptables.rules:20
    rule "from-198.51.100.0/28" {
      action = "reject"
      from   = ["198.51.100.0/28"]
    }
    # iptables.rules:21
    rule "tcp-25" {
      action = "reject"
      proto  = "tcp"
      ports  = [25]
      from   = ["198.51.100.0/28"]
    }
    # iptables.rules:24
    rule "from-192.0.2.66" {
      action = "drop"
      from   = ["192.0.2.66"]
    }
    # iptables.rules:26
    # TODO: "--match-set spammers src" cannot be said here. With action = "drop" the rule drops more than before, the
    #   safer side; without the rule less is dropped.
    rule "tcp-25-2" {
      action = "TODO"
      proto  = "tcp"
      ports  = [25]
      from   = ["0.0.0.0/0"]
    }
    # iptables.rules:27
    rule "tcp-25-3" {
      action = "accept"
      proto  = "tcp"
      ports  = [25]
      from   = ["0.0.0.0/0"]
    }
    # iptables.rules:28
    rule "icmp" {
      action = "accept"
      proto  = "icmp"
    }
  }
}

# iptables.rules:25
domu "guest-198-51-100-2" {
  vif    = "TODO: the guest's vif; without this line, hotplug (script=vif-udrouter in Xen's file) finds it by the MAC"
  mac    = "TODO: the guest's MAC"
  ipv4   = ["198.51.100.2"]
  policy = "imported"
}

# iptables.rules:26
domu "guest-198-51-100-3" {
  vif    = "TODO: the guest's vif; without this line, hotplug (script=vif-udrouter in Xen's file) finds it by the MAC"
  mac    = "TODO: the guest's MAC"
  ipv4   = ["198.51.100.3"]
  policy = "guest-198-51-100-3"
}

host {
  ingress {
    default = "drop"
    # iptables.rules:16
    rule "udp-53" {
      action = "accept"
      proto  = "udp"
      ports  = [53]
      from   = ["0.0.0.0/0"]
    }
  }
  uplink {
    default = "drop"
    # iptables.rules:15
    rule "tcp-22-8000-8010" {
      action = "accept"
      proto  = "tcp"
      ports  = [22, "8000-8010"]
      from   = ["0.0.0.0/0"]
    }
    rule "other-ipv6" {
      action = "accept"
      from   = ["::/0"]
    }
  }
}
