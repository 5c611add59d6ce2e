uplink "lo" {}
bridge "xenbr0" {
  tap = "lo"
}
network "v4" {
  prefix   = "192.0.2.0/24"
  gateway  = "192.0.2.1"
  upstream = "routed"
}
