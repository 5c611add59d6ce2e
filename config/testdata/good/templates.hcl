uplink "eth0" {}
bridge "xenbr0" {}
network "v4" {
  prefix = "192.0.2.0/24"
  gateway = "192.0.2.1"
  upstream = "routed"
}
policy "p" {
  ingress {
    rule "templates" {
      action = "accept"
      from   = ["domu:web"]
    }
  }
}
domu "web" {
  match    = "web-?*"
  networks = ["v4"]
  policy   = "p"
}
domu "rest" {
  match     = "any"
  addresses = 1
  prefix6   = 64
}
test "a stand-in" {
  from   = "domu:web"
  to     = "domu:rest"
  proto  = "tcp"
  port   = 80
  expect = "drop"
}
