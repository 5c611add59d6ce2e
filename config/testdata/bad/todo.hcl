uplink "TODO: the interface toward the provider" {}
bridge "xenbr0" {}
network "v4" {
  prefix   = "192.0.2.0/24"
  gateway  = "TODO"
  upstream = "routed"
}
domu "one" {
  vif  = "TODO: the guest's vif"
  mac  = "TODO: the guest's MAC"
  ipv4 = ["192.0.2.10"]
}
domu "two" {
  vif  = "TODO: the guest's vif"
  mac  = "TODO: the guest's MAC"
  ipv4 = ["192.0.2.11"]
  policy = "p"
}
policy "p" {
  ingress {
    rule "TODO: a name may say so" {
      action = "TODO"
    }
  }
}
