# Written by udrouter import. `udrouter check -c FILE` refuses it as long as a TODO is in it; look at the rest as well.
#
# Not carried over:
# - firewall.sh:6: ADMINPORT=$(cat /etc/adminport): this command is not understood, or stands in a condition or has a
#   variable of unknown value: see whether it is still needed, or write it out and import again
# - firewall.sh:13: iptables -A INPUT -p tcp ! --syn -m state --state NEW -j DROP: only in part: udrouter's rules
#   cannot say "! --syn": the rule is there with the action TODO, and drops more than before, which is the safer side,
#   once you write "drop"; or delete it
# - firewall.sh:18: iptables -A web -p tcp --dport 8080 -m recent --name http --update --seconds 60 -j DROP: only in
#   part: udrouter's rules cannot say "--name http, --update, --seconds 60": the rule is there with the action TODO,
#   and drops more than before, which is the safer side, once you write "drop"; or delete it
# - firewall.sh:19: iptables -A web -s 203.0.113.9 -j RETURN: only in part: the rules after it in its chain do not see
#   what it matches, which cannot be said: those of them that accept are left out
# - firewall.sh:20: iptables -A web -p udp --dport 443 -j ACCEPT: udrouter's rules cannot say "not what firewall.sh:19
#   has sent back before"; without the rule less is accepted, which is the safer side
# - firewall.sh:23: iptables -A INPUT -p tcp --dport $ADMINPORT -j ACCEPT: udrouter's rules cannot say "--dport
#   $ADMINPORT"; without the rule less is accepted, which is the safer side
# - firewall.sh:24: iptables -A INPUT -s $BADNET -j DROP: only in part: udrouter's rules cannot say "-s $BADNET": the
#   rule is there with the action TODO, and drops more than before, which is the safer side, once you write "drop"; or
#   delete it
# - firewall.sh:25: iptables -A $CHAIN -j DROP: which chain it is for is not known: write it out and import again, or
#   see whether what it drops still passes
# - firewall.sh:31: if [ -x /usr/bin/local-rules ]: this command is not understood, or stands in a condition or has a
#   variable of unknown value: see whether it is still needed, or write it out and import again
# - firewall.sh:32: iptables -A FORWARD -p tcp --dport 6667 -j DROP: only in part: udrouter's rules cannot say "a
#   condition of the script": the rule is there with the action TODO, and drops more than before, which is the safer
#   side, once you write "drop"; or delete it
# - firewall.sh:33: iptables -A FORWARD -j ACCEPT: udrouter's rules cannot say "a condition of the script"; without
#   the rule less is accepted, which is the safer side
# - firewall.sh:34: iptables -P FORWARD ACCEPT: it depends on a condition of the script: the policy is left as it is
# - firewall.sh:36: [ -e /etc/open ]: this command is not understood, or stands in a condition or has a variable of
#   unknown value: see whether it is still needed, or write it out and import again
# - firewall.sh:36: iptables -A INPUT -j ACCEPT: udrouter's rules cannot say "what comes of [ -e /etc/open ]"; without
#   the rule less is accepted, which is the safer side
# - firewall.sh:37: $UNKNOWN -A INPUT -j ACCEPT: this command is not understood, or stands in a condition or has a
#   variable of unknown value: see whether it is still needed, or write it out and import again
# - which addresses belong to one guest no file says: merge domu blocks of the same guest
#
# Carried over, with something to do or to know:
# - interfaces, lines 7 10: it is the network's gateway now: take it off xenbr0
#
# Not needed any more; take it out of the old files, but rules of one chain only all together:
# - firewall.sh, lines 3 4 5: it belongs to the script
# - firewall.sh:21: iptables -I FORWARD 1 -s 192.0.2.66 -j DROP: removed by firewall.sh:22
# - firewall.sh:29: ip6tables -A FORWARD -m state --state ESTABLISHED -j ACCEPT: firewall.sh:28 decides before it is
#   asked; replies and related errors pass by state
# - firewall.sh, lines 31 35 38: it belongs to the script
#
# Stays in the old files:
# - firewall.sh:30: ip6tables -A OUTPUT -d 2001:db8:3:2:1::11 -p tcp --dport 22 -j DROP: what dom0 sends to others
#   than guests stays dom0's own
# - interfaces:1: auto eth0: the interfaces that go are named below
# - interfaces, lines 2 3: dom0's own
# - interfaces, lines 5 6 8 9: the bridge stays, without addresses

uplink "eth0" {
  gateway4 = "192.0.1.1"
  address4 = "192.0.1.3"
}

bridge "xenbr0" {
}

# interfaces:7
network "v4" {
  prefix   = "192.0.2.0/24"
  gateway  = "192.0.2.1"
  upstream = "routed"
}

# interfaces:10
network "v6" {
  prefix   = "2001:db8:3:2::/64"
  gateway  = "2001:db8:3:2:1::1"
  upstream = "routed"
}

policy "imported" {
  egress {
    default = "drop"
    # host.ingress decides
    rule "to-dom0" {
      action = "accept"
      to     = ["host"]
    }
    # their ingress decides
    rule "to-guests" {
      action = "accept"
      to     = ["192.0.2.0/24", "2001:db8:3:2::/64"]
    }
    # firewall.sh:15
    rule "to-0.0.0.0/1" {
      action = "accept"
      to     = ["0.0.0.0/1", "128.0.0.0/2", "192.0.0.0/23", "192.0.3.0/24", "192.0.4.0/22", "192.0.8.0/21", "192.0.16.0/20", "192.0.32.0/19", "192.0.64.0/18", "192.0.128.0/17", "192.1.0.0/16", "192.2.0.0/15", "192.4.0.0/14", "192.8.0.0/13", "192.16.0.0/12", "192.32.0.0/11", "192.64.0.0/10", "192.128.0.0/9", "193.0.0.0/8", "194.0.0.0/7", "196.0.0.0/6", "200.0.0.0/5", "208.0.0.0/4", "224.0.0.0/3"]
    }
    # firewall.sh:32
    # TODO: "a condition of the script" cannot be said here. With action = "drop" the rule drops more than before, the
    #   safer side; without the rule less is dropped.
    rule "tcp-6667" {
      action = "TODO"
      proto  = "tcp"
      ports  = [6667]
      from   = ["0.0.0.0/0"]
    }
  }
  ingress {
    default = "drop"
    rule "from-dom0" {
      action = "accept"
      from   = ["host"]
    }
    # firewall.sh:32
    # TODO: "a condition of the script" cannot be said here. With action = "drop" the rule drops more than before, the
    #   safer side; without the rule less is dropped.
    rule "tcp-6667" {
      action = "TODO"
      proto  = "tcp"
      ports  = [6667]
      from   = ["0.0.0.0/0"]
    }
  }
}

policy "guest-192-0-2-11" {
  egress {
    default = "drop"
    # host.ingress decides
    rule "to-dom0" {
      action = "accept"
      to     = ["host"]
    }
    # their ingress decides
    rule "to-guests" {
      action = "accept"
      to     = ["192.0.2.0/24", "2001:db8:3:2::/64"]
    }
    # firewall.sh:15
    rule "to-0.0.0.0/1" {
      action = "accept"
      to     = ["0.0.0.0/1", "128.0.0.0/2", "192.0.0.0/23", "192.0.3.0/24", "192.0.4.0/22", "192.0.8.0/21", "192.0.16.0/20", "192.0.32.0/19", "192.0.64.0/18", "192.0.128.0/17", "192.1.0.0/16", "192.2.0.0/15", "192.4.0.0/14", "192.8.0.0/13", "192.16.0.0/12", "192.32.0.0/11", "192.64.0.0/10", "192.128.0.0/9", "193.0.0.0/8", "194.0.0.0/7", "196.0.0.0/6", "200.0.0.0/5", "208.0.0.0/4", "224.0.0.0/3"]
    }
    # firewall.sh:32
    # TODO: "a condition of the script" cannot be said here. With action = "drop" the rule drops more than before, the
    #   safer side; without the rule less is dropped.
    rule "tcp-6667" {
      action = "TODO"
      proto  = "tcp"
      ports  = [6667]
      from   = ["0.0.0.0/0"]
    }
  }
  ingress {
    default = "drop"
    rule "from-dom0" {
      action = "accept"
      from   = ["host"]
    }
    # firewall.sh:14
    rule "from-192.0.2.10" {
      action = "accept"
      from   = ["192.0.2.10"]
    }
    # firewall.sh:17
    rule "tcp-80-443" {
      action = "accept"
      proto  = "tcp"
      ports  = [80, 443]
      from   = ["0.0.0.0/1", "128.0.0.0/2", "192.0.0.0/5", "200.0.0.0/7", "202.0.0.0/8", "203.0.0.0/18", "203.0.64.0/19", "203.0.96.0/20", "203.0.112.0/24", "203.0.114.0/23", "203.0.116.0/22", "203.0.120.0/21", "203.0.128.0/17", "203.1.0.0/16", "203.2.0.0/15", "203.4.0.0/14", "203.8.0.0/13", "203.16.0.0/12", "203.32.0.0/11", "203.64.0.0/10", "203.128.0.0/9", "204.0.0.0/6", "208.0.0.0/4", "224.0.0.0/3"]
    }
    # firewall.sh:18
    # TODO: "--name http, --update, --seconds 60" cannot be said here. With action = "drop" the rule drops more than
    #   before, the safer side; without the rule less is dropped.
    rule "tcp-8080" {
      action = "TODO"
      proto  = "tcp"
      ports  = [8080]
      from   = ["0.0.0.0/0"]
    }
    # firewall.sh:32
    # TODO: "a condition of the script" cannot be said here. With action = "drop" the rule drops more than before, the
    #   safer side; without the rule less is dropped.
    rule "tcp-6667" {
      action = "TODO"
      proto  = "tcp"
      ports  = [6667]
      from   = ["0.0.0.0/0"]
    }
  }
}

policy "guest-2001-db8-3-2-1--10" {
  egress {
    default = "drop"
    # host.ingress decides
    rule "to-dom0" {
      action = "accept"
      to     = ["host"]
    }
    # their ingress decides
    rule "to-guests" {
      action = "accept"
      to     = ["192.0.2.0/24", "2001:db8:3:2::/64"]
    }
    rule "other-ipv6" {
      action = "accept"
      from   = ["::/0"]
    }
  }
  ingress {
    default = "drop"
    rule "from-dom0" {
      action = "accept"
      from   = ["host"]
    }
    # firewall.sh:28
    rule "from-2001:db8:3:2:1::10" {
      action = "accept"
      from   = ["2001:db8:3:2:1::10"]
    }
  }
}

# firewall.sh:14
domu "guest-192-0-2-10" {
  vif    = "TODO: the guest's vif; without this line, hotplug (script=vif-udrouter in Xen's file) finds it by the MAC"
  mac    = "TODO: the guest's MAC"
  ipv4   = ["192.0.2.10"]
  policy = "imported"
}

# firewall.sh:14
domu "guest-192-0-2-11" {
  vif    = "TODO: the guest's vif; without this line, hotplug (script=vif-udrouter in Xen's file) finds it by the MAC"
  mac    = "TODO: the guest's MAC"
  ipv4   = ["192.0.2.11"]
  policy = "guest-192-0-2-11"
}

# firewall.sh:28
domu "guest-2001-db8-3-2-1--10" {
  vif    = "TODO: the guest's vif; without this line, hotplug (script=vif-udrouter in Xen's file) finds it by the MAC"
  mac    = "TODO: the guest's MAC"
  ipv6   = ["2001:db8:3:2:1::10"]
  policy = "guest-2001-db8-3-2-1--10"
}

host {
  ingress {
    default = "drop"
    # firewall.sh:10
    rule "tcp-53" {
      action = "accept"
      proto  = "tcp"
      ports  = [53]
      from   = ["0.0.0.0/0"]
    }
    # firewall.sh:10
    rule "udp-53" {
      action = "accept"
      proto  = "udp"
      ports  = [53]
      from   = ["0.0.0.0/0"]
    }
    rule "other-ipv4" {
      action = "accept"
      from   = ["0.0.0.0/0"]
    }
  }
  uplink {
    default = "drop"
    # firewall.sh:10
    rule "tcp-53" {
      action = "accept"
      proto  = "tcp"
      ports  = [53]
      from   = ["0.0.0.0/0"]
    }
    # firewall.sh:10
    rule "udp-53" {
      action = "accept"
      proto  = "udp"
      ports  = [53]
      from   = ["0.0.0.0/0"]
    }
    # firewall.sh:12
    rule "tcp-22" {
      action = "accept"
      proto  = "tcp"
      ports  = [22]
      from   = ["198.51.100.0/24"]
    }
    # firewall.sh:13
    # TODO: "! --syn" cannot be said here. With action = "drop" the rule drops more than before, the safer side; without
    #   the rule less is dropped.
    rule "tcp" {
      action = "TODO"
      proto  = "tcp"
      from   = ["0.0.0.0/0"]
    }
    # firewall.sh:24
    # TODO: "-s $BADNET" cannot be said here. With action = "drop" the rule drops more than before, the safer side;
    #   without the rule less is dropped.
    rule "everything" {
      action = "TODO"
      from   = ["0.0.0.0/0"]
    }
  }
}
