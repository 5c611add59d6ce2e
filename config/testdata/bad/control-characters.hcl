uplink "eth0" {
  gateway4 = "[31mred" # ]0;title
}

bridge "xenbr0" {}

network "v4" {
  prefix   = "192.0.2.0/24"
  gateway  = "192.0.2.1"
  upstream = "routed"
}
