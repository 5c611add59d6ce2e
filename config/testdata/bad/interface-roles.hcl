uplink "eth0" {}

bridge "eth0" {}

network "v4" {
  prefix   = "192.0.2.0/24"
  gateway  = "192.0.2.1"
  upstream = "routed"
}

domu "a" {
  mac = "00:16:3e:00:00:01"
  vif = "udr0"
}

domu "b" {
  mac = "00:16:3e:00:00:02"
  vif = "udrhost"
}

host {}
