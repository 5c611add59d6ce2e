uplink "eth0" {
  gateway4 = "192.0.1.1"
  gateway6 = "2001:db8:3:2::1"
}

bridge "xenbr0" {}

network "n0" {
  prefix   = "0.0.0.0/0"
  gateway  = "192.0.2.1"
  upstream = "routed"
}

network "n1" {
  prefix   = "::/0"
  gateway  = "2001:db8::1"
  upstream = "routed"
}

network "n2" {
  prefix   = "224.0.0.0/8"
  gateway  = "224.0.0.1"
  upstream = "routed"
}

network "n3" {
  prefix   = "127.0.0.0/8"
  gateway  = "127.0.0.1"
  upstream = "routed"
}

network "n4" {
  prefix   = "169.254.0.0/16"
  gateway  = "169.254.0.1"
  upstream = "routed"
}

network "n5" {
  prefix   = "128.0.0.0/1"
  gateway  = "192.0.2.1"
  upstream = "routed"
}

network "n6" {
  prefix   = "ff02::/16"
  gateway  = "ff02::1"
  upstream = "routed"
}

network "n7" {
  prefix   = "fe80::/64"
  gateway  = "fe80::1"
  upstream = "routed"
}

network "n8" {
  prefix   = "::ffff:192.0.2.0/120"
  gateway  = "192.0.2.1"
  upstream = "routed"
}

network "n9" {
  prefix   = "fe80::%eth0/64"
  gateway  = "fe80::1"
  upstream = "routed"
}

network "n10" {
  prefix   = "2001:db8::%eth0/64"
  gateway  = "fe80::1"
  upstream = "routed"
}

network "n11" {
  prefix   = "::1/128"
  gateway  = "::1"
  upstream = "routed"
}

network "n12" {
  prefix   = "240.0.0.0/8"
  gateway  = "240.0.0.1"
  upstream = "routed"
}

network "n13" {
  prefix   = "100::/64"
  gateway  = "fe80::1"
  upstream = "routed"
}

network "n14" {
  prefix   = "2002:a00:1::/48"
  gateway  = "fe80::1"
  upstream = "routed"
}
