uplink "eth0" {
  gateway4 = <<END
192.0.1.1
END
}
