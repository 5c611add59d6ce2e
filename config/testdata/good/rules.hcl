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

domu "one.web-1:a" {
  mac = "00:16:3e:00:00:01"
  ipv4 = ["192.0.2.10", "192.0.2.32/28"]
}

policy "p" {
  egress {
    default = "reject"
    rule "r" {
      action = "accept"
      proto = "6"
      ports = ["22", 80, "1-65535"]
      from = ["0.0.0.0/0", "::/0", "192.0.2.10", "domu:one.web-1:a", "host", "uplink"]
      to = ["2001:db8::/32"]
    }
    rule "a rule for people" {
      action = "drop"
      proto = 0
    }
    rule "mismatch" {
      action = "accept"
      proto = "icmpv6"
      from = ["192.0.2.0/24"]
    }
  }
}

policy "shadow" {
  mode = "shadow"
  limits {
    packets = 1
    bandwidth = "1 Gbit"
  }
}

host {
  uplink {
    default = "accept"
    rule "r" {
      action = "reject"
    }
  }
}

log {
  level = "debug"
  format = "json"
}

metrics {
  listen = "[::1]:9469"
}

control {
  socket = "/tmp/s"
  group = "1000"
}
