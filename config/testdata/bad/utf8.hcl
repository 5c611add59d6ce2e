uplink "eth0" {
  # München
}
