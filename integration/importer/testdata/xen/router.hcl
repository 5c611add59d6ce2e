# Written by udrouter import. `udrouter check -c FILE` refuses it as long as a TODO is in it; look at the rest as well.
#
# Not carried over:
# - interfaces:11: up ip route add 198.51.100.7/32 via 192.0.2.12: no network holds 198.51.100.7/32: udrouter wants
#   one with its prefix and a gateway in it, then add a domu block for the guest
# - web.cfg:2: mac=00:16:3e:00:00:01,bridge=xenbr0,ip=192.0.2.10 192.0.2.1 192.0.2.11,rate=10Mb/s: its rate is still
#   Xen's to enforce; a policy's limits { bandwidth } would be udrouter's; 192.0.2.1 is a gateway, or the first or
#   last of its network, and no guest's; the domu block leaves vif out, since its number is another at each start: put
#   script=vif-udrouter here, which tells the router (README, Xen)
#
# Carried over, with something to do or to know:
# - interfaces:9: address 192.0.2.1/24: it is the network's gateway now: take it off xenbr0
# - mail.cfg:2: bridge=xenbr0,script=vif-route,ip=192.0.2.12: the domu block leaves vif out, since its number is
#   another at each start: put script=vif-udrouter here, which tells the router (README, Xen); it has no mac=, and xl
#   makes one up at each start: put the one that the domu block has here
# - mail.cfg:2: mac=00:16:3e:00:00:04,bridge=xenbr0,script=/etc/xen/scripts/vif-route,vifname=mail1: its script
#   vif-route is not needed any more: vif-udrouter or vif-bridge joins the vif to the bridge; it has no ip=: put the
#   guest's addresses into its domu block
#
# Stays in the old files:
# - interfaces:1: auto eth0: the interfaces that go are named below
# - interfaces, lines 2 3: dom0's own
# - interfaces, lines 7 8 10: the bridge stays, without addresses
# - mail.cfg: what it says of other things than name and vif is Xen's
# - web.cfg: what it says of other things than name and vif is Xen's

uplink "eth0" {
  gateway4 = "203.0.113.1"
  address4 = "203.0.113.5"
}

bridge "xenbr0" {
}

# interfaces:9
network "v4" {
  prefix   = "192.0.2.0/24"
  gateway  = "192.0.2.1"
  upstream = "routed"
}

policy "imported" {
  egress {
    default = "accept"
  }
  ingress {
    default = "accept"
  }
}

policy "mail-2" {
  egress {
    default = "accept"
  }
  ingress {
    default = "accept"
    rule "from-dom0" {
      action = "accept"
      from   = ["host"]
    }
    # iptables.rules:3
    rule "tcp-25" {
      action = "drop"
      proto  = "tcp"
      ports  = [25]
      to     = ["192.0.2.14"]
    }
  }
}

policy "guest-192-0-2-14" {
  egress {
    default = "accept"
  }
  ingress {
    default = "accept"
    rule "from-dom0" {
      action = "accept"
      from   = ["host"]
    }
    # iptables.rules:3
    rule "tcp-25" {
      action = "drop"
      proto  = "tcp"
      ports  = [25]
      from   = ["0.0.0.0/0"]
    }
  }
}

# mail.cfg:2
domu "mail" {
  mac    = "TODO: the guest's MAC"
  ipv4   = ["192.0.2.12"]
  policy = "imported"
}

# mail.cfg:2
domu "mail-2" {
  vif    = "mail1"
  mac    = "00:16:3e:00:00:04"
  policy = "mail-2"
}

# web.cfg:2
domu "web" {
  mac    = "00:16:3e:00:00:01"
  ipv4   = ["192.0.2.10", "192.0.2.11"]
  policy = "imported"
}

# web.cfg:3
domu "web-2" {
  mac    = "00:16:3e:00:00:02"
  ipv4   = ["192.0.2.13"]
  policy = "imported"
}

# iptables.rules:3
domu "guest-192-0-2-14" {
  mac    = "TODO: the guest's MAC"
  ipv4   = ["192.0.2.14"]
  policy = "guest-192-0-2-14"
}

host {
  ingress {
    default = "drop"
  }
}
