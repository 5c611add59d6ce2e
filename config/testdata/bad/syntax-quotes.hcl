uplink 'eth0' {
}
