uplink "eth0" { gateway4 = "192.0.1.1", gateway6 = "fe80::1" }
