# router.hcl: every key of udrouter's configuration, on the network of a rented Xen server.
#
# Lines that begin with "# " explain. Lines that begin with "#" and a word are settings that this network does
# not need; take the "#" away to use them. A key that is left out has the default which its comment names.
# Values are literals: strings in quotes, numbers, true and false, and lists of them in brackets.

# The interface toward the provider. It stays dom0's; the router shares it.
uplink "eth0" {
  # The provider's routers. Default: those of the kernel's default routes.
  gateway4 = "192.0.1.1"
  # It may lie in no local prefix, in the guests' own, or be link-local (fe80::1). Here it lies in the guests'
  # /64: it is never proxied, and always reached through the uplink.
  gateway6 = "2001:db8:3:2::1"
  # dom0's own IPv4 address, which ARP requests are sent with. Default: the kernel's on this interface.
  #address4 = "192.0.1.3"
}

# The bridge that joins the guests' vifs. It exists, or it is created.
bridge "xenbr0" {
  # The router's port of the bridge, which it creates. Default: "udr0".
  tap = "udr0"
  # The MAC that guests know the router by; not that of the TAP device. Default: derived, and stable.
  #mac = "02:00:5e:00:53:01"
  # Bytes; 1280 to 65535, from 576 where no network is IPv6. Default: the uplink's.
  #mtu = 1500
  # Whether guests reach each other through the router and its policy only. Default: true.
  isolate = true
}

# A prefix of guests' addresses, and the router's address in it. At least one; they do not overlap.
network "v4" {
  # Without host bits. Required.
  prefix = "192.0.2.0/24"
  # What guests have as their gateway. Required; in the prefix, and not the provider's router.
  gateway = "192.0.2.1"
  # How packets for the prefix come here. Required. "routed": the provider sends them to dom0's own address.
  # "proxied": it takes them for on-link, and the router answers ARP and NDP for the guests' addresses.
  upstream = "routed"
}

network "v6" {
  prefix = "2001:db8:3:2::/64"
  # In an IPv6 network it may be link-local: fe80::1 is on every guest's link anyway.
  gateway  = "2001:db8:3:2:1::1"
  upstream = "proxied"

  # Router advertisements to the guests, by which they find their gateway: each is told by itself, and makes an address of its own out of a prefix only where it may use
  # it: where it is bound to 64 bits of it, or to the address that its MAC makes and there is no dhcp block. Default: none.
  #ra {
    # How long the default route lasts; from "12s" to "2h30m". Default: "30m".
    #lifetime = "20m"
    # Name servers. Default: none.
    #dns = ["2001:db8:3:2:1::1"]
    # Whether guests are told that the whole prefix is on their link. They send each other's packets to the router in either case, which answers for those that are bound,
    # and reach each other by policy; for addresses of the prefix that are nobody's it does not answer. Default: false.
    #on_link = true
  #}

  # DHCP for the guests, from what they are bound to; in an IPv4 network as well. In an IPv6 network they ask for it when an ra block says so. Default: none.
  #dhcp {
    # "1m" to "8760h", a year. Default: "1h".
    #lease = "12h"
    # Name servers. Default: none.
    #dns = ["2001:db8:3:2:1::1"]
  #}

  # How a proxied network is answered for; it has no place in a routed one. May be left out.
  proxy {
    # "bound": for the addresses of domu blocks. "learned": for those of them whose guest has answered a
    # probe. Default: "bound".
    answer = "bound"
    # The router flag of neighbour advertisements; IPv6 only. Default: true.
    router = true
    # Their override flag, when they are solicited (RFC 4861 7.2.8 wants none); IPv6 only. Default: false.
    override = false
    # How long a learned guest counts as present; at most "24h". Default: "30s".
    ttl = "30s"
    # How long a probe waits for the guest; at most "10s". Default: "500ms".
    timeout = "500ms"
    # Whether the upstream is told when a guest appears. Default: true.
    announce = true
    # The advertisements' source: "link-local", the router's own on the uplink, or "target", the address that
    # is answered for; IPv6 only. Default: "link-local".
    source = "link-local"
  }
}

# What guests that name it may send and be sent. Guards come first, whatever a rule says: forged, malformed
# and link-local packets, DHCP servers, router advertisements and the like never pass.
policy "untrusted" {
  # "enforce", or "shadow": rules and limits only count and log what they would have done, for these guests; the other
  # end of a connection keeps its own rules. Default: "enforce".
  mode = "enforce"

  # From the guest. The first rule that matches decides; replies of what was accepted pass.
  egress {
    # When no rule matches: "accept", "drop", or "reject" (with an ICMP error or a TCP reset).
    # Default: "accept" in egress, "drop" in ingress.
    default = "accept"

    # A rule matches when everything that it names does. Names are unique in their block.
    rule "no-smtp" {
      # "accept", "drop" or "reject". Required.
      action = "reject"
      # "tcp", "udp", "icmp", "icmpv6" or a number from 0 to 255. Default: every protocol.
      proto = "tcp"
      # Destination ports of tcp or udp: numbers, and ranges such as "5201-5210". Default: every port.
      ports = [25]
      # Sender and receiver: addresses, prefixes, "domu:NAME", "host" (dom0) and "uplink" (everyone else).
      # Default: everyone.
      #from = ["domu:one", "192.0.2.64/26"]
      #to = ["uplink"]
    }
  }

  # To the guest.
  ingress {
    default = "drop"
    rule "ssh" {
      action = "accept"
      proto  = "tcp"
      ports  = [22]
    }
    rule "web" {
      action = "accept"
      proto  = "tcp"
      ports  = [80, 443]
    }
    # Rules for icmp and icmpv6 concern queries such as echo: errors and replies pass by state.
    rule "ping4" {
      action = "accept"
      proto  = "icmp"
    }
    rule "ping6" {
      action = "accept"
      proto  = "icmpv6"
    }
  }

  # What one guest may use, each direction by itself, of what the rules let pass. A limit that is left out is none, but
  # for flows, which hold in shadow mode as well.
  limits {
    # Packets a second; large segments count as the packets they become.
    #packets = 100000
    # Bits a second: a number, or one with bit, kbit, Mbit, Gbit or Tbit, which are powers of 1000.
    #bandwidth = "500Mbit"
    # Flows opened a second, by the guest and from outside toward it; what other guests open toward it counts as theirs.
    new_flows = 2000
    # Flows at a time; beyond them one is forgotten for each new one: what nobody has answered first, and the oldest of what
    # there is most of. Default: 65536.
    flows = 16384
  }
}

# A guest: what it is bound to. A packet from another MAC or address does not pass, and nothing is answered
# for an address that is not here.
domu "one" {
  # Its port of the bridge. Default: named by the hotplug script, later, which tells by the MAC whose it is.
  vif = "vif1.0"
  # As in the guest's own configuration. Unique. Required, but not in a template.
  mac = "00:16:3e:00:00:01"
  # Addresses and prefixes in the networks above. Default: none. A link-local address in ipv6 pins the guest
  # to it; without one it may use any that is free.
  ipv4 = ["192.0.2.10"]
  # Prefixes have no host bits, and overlap neither a gateway nor what another guest has. Default: none.
  ipv6 = ["2001:db8:3:2:1::10"]
  # The name of a policy. Default: egress accepted, ingress dropped.
  policy = "untrusted"
}

domu "two" {
  vif    = "vif2.0"
  mac    = "00:16:3e:00:00:02"
  ipv4   = ["192.0.2.11"]
  ipv6   = ["2001:db8:3:2:1::11"]
  policy = "untrusted"
}

# A template: guests that hotplug names (`udrouter vif add`, the Xen script), by the domain's name and with the MAC and
# addresses of the domain's own configuration. A domu block with the MAC comes first; then the templates in the order of
# the file, "any" last. A vif that none is for is locked and passes nothing. In rules, "domu:web" is all of its guests.
#domu "web" {
  # "any", or a pattern of domains' names: * is any text, ? one character. Required in a template.
  #match = "web-*"
  # Networks whose addresses hotplug may give to its guests. Default: all.
  #networks = ["v4", "v6"]
  # How many addresses and prefixes one of them may have; at most 1024. Default: 16.
  #addresses = 2
  # The shortest IPv6 prefix among them, in bits; of IPv4 they have single addresses. Default: 128.
  #prefix6 = 80
  # As in other domu blocks.
  #policy = "untrusted"
#}

# What dom0 and the guests may do to each other. Without this block they do not meet.
host {
  # The interface that joins dom0 to the router, which creates it. Default: "udrhost".
  interface = "udrhost"

  # From guests to dom0; as in a policy. Default: drop. Echo to the router itself is answered anyway.
  ingress {
    default = "drop"
    rule "dns" {
      action = "accept"
      proto  = "udp"
      ports  = [53]
    }
  }

  # From the internet to dom0. Default when the block is left out: dom0's own firewall decides. Default in it:
  # drop, so name the port by which you administer the host. dom0's own connections go on, and neighbour
  # discovery and DHCP pass, whatever the rules say; dom0's other firewall rules hold as well.
  uplink {
    default = "drop"
    rule "ssh" {
      action = "accept"
      proto  = "tcp"
      ports  = [22]
    }
    rule "icmpv6" {
      action = "accept"
      proto  = "icmpv6"
    }
  }
}

# A question to the policy with the answer that it must have; `udrouter check` and `udrouter test` ask it, and `udrouter test --live`
# sends the packet for real.
test "anyone reaches the web server" {
  # "uplink", "host" or "domu:NAME". Required.
  from = "uplink"
  # The sender's address. Required from the uplink. Default: the guest's own, or dom0's.
  src = "198.51.100.7"
  # The receiver, "host" or "domu:NAME". Required, but for the next.
  to = "domu:one"
  # As in a rule. Required.
  proto = "tcp"
  # The destination port. Required for tcp and udp, which alone have one.
  port = 443
  # "accept", "drop" or "reject". Required.
  expect = "accept"
  # The rule that has to decide. Default: any, or none.
  #rule = "web"
  # Whether the packets are answers: from the port, in a connection to it that the receiver has opened before. Default: false.
  #open = true
  # A further packet, any number of them. What is left out is as above, but for expect, rule and forge.
  #then {
    #src = "203.0.113.7"
    #expect = "accept"
  #}
}

test "guests send no mail" {
  from = "domu:two"
  # Instead of to: the receiver's address.
  dst    = "198.51.100.7"
  proto  = "tcp"
  port   = 25
  expect = "reject"
  # What is wrong with the packet. "mac", "source": another's. "answer": nobody has asked. "flags": SYN and FIN. "fragment": too short for its
  # header. "route": through the destination, by source route or routing header. "vlan": tagged. Messages of their own, without proto and port, are
  # "arp" and "nd", which claim the destination's address, "ra", "redirect" and "dhcp", of a server. Default: nothing is wrong.
  #forge = "source"
}

# Where `udrouter status` and its like reach the router.
control {
  # An absolute path of at most 107 bytes. Default: "/run/udrouter/control.sock".
  socket = "/run/udrouter/control.sock"
  # The group that may use it; a member may ask, and only root may tell it something. Default: the process's own.
  #group = "adm"
}

# Where Prometheus may scrape. Default: nowhere.
#metrics {
  # A loopback address with a port, or "unix:/path"; others are refused, for want of a password. Required.
  #listen = "127.0.0.1:9469"
#}

# What the process says of itself, on the standard error.
log {
  # "debug", "info", "warn" or "error". Default: "info".
  level = "info"
  # "text" or "json". Default: "text".
  format = "text"
}
