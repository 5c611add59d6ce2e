uplink "eth0" {}
bridge "xenbr0" {}

network "v4" {
  prefix   = "192.0.2.0/24"
  gateway  = "192.0.2.1"
  upstream = "routed"
}

domu "one" {
  mac  = "00:16:3e:00:00:01"
  ipv4 = ["192.0.2.10"]
}

host {
  ingress {
    rule "guests may" {
      action = "accept"
      from   = ["domu:one"]
      to     = ["host"]
    }
  }
  uplink {
    rule "right" {
      action = "accept"
      from   = ["uplink", "198.51.100.0/24"]
      to     = ["host", "192.0.1.3"]
    }
    rule "wrong" {
      action = "drop"
      from   = ["198.51.100.7", "domu:one", "host"]
      to     = ["uplink", "domu:one"]
    }
  }
}
