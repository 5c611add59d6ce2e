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
  limits {
    packets   = 0
    bandwidth = "100MB"
    new_flows = 1.5
    flows     = 0
  }
}

policy "q" {
  limits {
    packets   = -5
    bandwidth = "1.5Gbit"
    new_flows = "2000"
    flows     = 99999999999999999999
  }
}

policy "r" {
  limits {
    packets   = "many"
    bandwidth = "99999999999Tbit"
  }
}

policy "s" {
  limits {
    bandwidth = 0
  }
}

policy "t" {
  limits {
    bandwidth = "0Mbit"
  }
}

policy "u" {
  limits {
    bandwidth = "10mbps"
  }
}

policy "v" {
  limits {
    bandwidth = "Mbit"
  }
}
