uplink "averylonginterface0" {}

bridge "xen br0" {
  tap = "a/b"
}

network "v4" {
  prefix   = "192.0.2.0/24"
  gateway  = "192.0.2.1"
  upstream = "routed"
}

domu "a" {
  mac = "00:16:3e:00:00:01"
  vif = "eth0:1"
}

domu "b" {
  mac = "00:16:3e:00:00:02"
  vif = ".."
}

domu "c" {
  mac = "00:16:3e:00:00:03"
  vif = ""
}

host {
  interface = "tab\t0"
}
