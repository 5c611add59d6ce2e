uplink "eth0" {
  gateway4: "192.0.1.1"
}
