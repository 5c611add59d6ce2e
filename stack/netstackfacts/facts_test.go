package netstackfacts

import (
	"testing"
)

// TestFacts has a subtest a row: N are the rows of netstack.md, F and A those of attacks.md ("What was measured", "Also").
// Where the sheet says otherwise than this version does, the test asserts the truth and its comment begins with "Differs".
func TestFacts(t *testing.T) {
	for _, row := range []struct {
		name string
		test func(*testing.T)
	}{
		{"N01_header_chain_over_1280_panics", headerChainPanics},
		{"N02_link_write_errors_panic_when_forwarding", writeErrorsPanic},
		{"N03_forwarding_rewrites_l4_checksums", rewritesChecksums},
		{"N03_forwarding_corrupts_fragments", corruptsFragments},
		{"N04_packet_too_big_carries_mtu_0", tooBigWithoutMTU},
		{"N05_ttl_1_forwarded_as_0", ttlOne},
		{"N06_fdbased_on_tap_dies_at_foreign_unicast", fdbasedDiesAtForeignUnicast},
		{"N06_fdbased_discards_virtio_net_hdr", fdbasedDiscardsVnetHeader},
		{"N07_forwarding_drops_gso_options", dropsGSO},
		{"N08_forwarded_packet_is_copied_whole", copiesPacket},
		{"N09_no_proxy_arp_or_ndp", noProxy},
		{"N09_promiscuous_disables_forwarding", promiscuousTakesAll},
		{"N10_unicast_ns_is_forwarded", forwardsSolicitation},
		{"N11_iptables_turns_conntrack_on", conntrackOn},
		{"N12_nftables_can_be_implemented_outside", nftablesOutside},
		{"N13_512_dynamic_neighbours_lru", neighboursLRU},
		{"N13_256_packets_a_resolution", packetsPerResolution},
		{"N13_gratuitous_arp_is_ignored", gratuitousARP},
		{"N13_changed_mac_blackholes_53s", changedMAC},
		{"N13_how_to_refresh_at_once", refreshAtOnce},
		{"N14_find_route_wants_an_address_somewhere", findRouteWantsAddress},
		{"N14_arp_wants_an_address_on_the_nic", arpWantsAddress},
		{"N15_icmp_limit_is_for_the_whole_stack", icmpLimit},
		{"N15_icmp_error_about_broadcast_frames_and_later_fragments", icmpSuppression},
		{"N16_no_redirects_urpf_martians_other_host", noGuards},
		{"N17_gro_makes_packets_that_cannot_be_forwarded", groTooBig},
		{"N17_af_xdp_endpoint", afXDP},

		{"F01_uplink_down_kills_the_process", uplinkDownKills},
		{"F02_fdbased_reader_dead_after_flap", fdbasedDiesAtFlap},
		{"F03_small_mtu_panics", smallMTU},
		{"F04_ttl_1_forwarded_as_0", ttlOne},
		{"F05_wrong_checksums_are_repaired", rewritesChecksums},
		{"F06_conntrack_has_no_cap", conntrackUnbounded},
		{"F06_conntrack_timeouts", conntrackTimeouts},
		{"F07_neighbours_are_evicted_by_strangers", evictedByStrangers},
		{"F07_neighbours_are_overwritten_by_anyone", overwrittenByAnyone},
		{"F08_spoofing_answers_for_everything", spoofingAnswers},
		{"F12_packets_of_death_are_fixed", packetsOfDeath},
		{"F12_tcp_data_offset_behind_the_end_panics", dataOffsetPanics},
		{"F12_no_panic_in_mutated_packets", mutatedPackets},

		{"A01_one_icmp_bucket_1000_per_s_burst_50", icmpLimit},
		{"A02_64_pending_resolutions", pendingResolutions},
		{"A03_solicited_na_always_override", naAlwaysOverride},
		{"A04_ns_behind_dstopts_is_processed", nsBehindOptions},
		{"A05_rh0_transits", routingHeaderTransits},
		{"A06_forwards_to_special_destinations", specialDestinations},
		{"A07_icmp_error_about_icmpv6_error_in_first_fragment", icmpErrorAboutError},
		{"A08_ping_of_death_fragment_is_forwarded", pingOfDeath},

		{"H01_forwarding_off_nothing_panics", hostNeverPanics},
		{"H02_forwarding_off_address_of_other_nic", hostOtherNIC},
		{"H03_same_address_on_both_nics", sameAddressTwice},
		{"H04_nothing_is_sent_unasked", nothingUnasked},
		{"H05_duplicate_address_check_on_demand", duplicateAddressCheck},
		{"H06_unregistered_transports_are_answered", unregisteredTransports},
		{"H07_no_goroutines_at_rest", noGoroutines},
		{"H08_recovered_panic_leaves_no_lock", recoveredPanic},
	} {
		t.Run(row.name, row.test)
	}
}
