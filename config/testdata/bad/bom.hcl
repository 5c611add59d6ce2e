uplink "eth0" {
  gateway4 = "x"
}
