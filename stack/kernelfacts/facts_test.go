package kernelfacts

import "testing"

// TestFacts has a subtest a fact of netstack.md ("Kernel facts") and of attacks.md (F9-F11, "Also").
func TestFacts(t *testing.T) {
	for _, row := range []struct {
		name string
		test func(*testing.T)
	}{
		{"K01_receive_order_xdp_tap_tc_nft_socket", receiveOrder},
		{"K01_receive_order_nft_before_bridge", nftBeforeBridge},
		{"K01_kernel_is_silent_behind_netdev_drop", kernelSilent},
		{"K01_socket_filter_filters_our_copy_only", socketFilter},
		{"K02_packet_ignore_outgoing", ignoreOutgoing},
		{"K03_packet_vnet_hdr_is_10_bytes", vnetHeader},
		{"K04_partial_checksums_without_vnet_headers", partialChecksums},
		{"K04_gso_frames_arrive_whole", gsoWhole},
		{"K05_vnet_hdr_recv_einval_for_inexpressible_gso", inexpressibleGSO},
		{"K06_qdisc_bypass_drops_gso_that_needs_segmentation", qdiscBypass},
		{"K07_tap_keeps_type_and_multi_queue_flag", tapKeepsFlags},
		{"K07_tap_vnet_hdr_is_chosen_at_each_attach", tapVnetHeader},
		{"K07_water_creates_we_attach", waterCreates},
		{"K08_tunsetoffload_uso", tunOffload},
		{"K08_tap_queue_holds_1000", tapQueue},
		{"K09_tap_without_reader_has_no_carrier", tapCarrier},
		{"K10_bridge_isolated_and_locked_ports", bridgePorts},
		{"K10_bridge_learned_entry_passes_locked_port", learnedPasses},
		{"K10_bridge_swallows_frames_to_a_ports_mac", swallowsPortMAC},
		{"K11_auxdata_shows_stripped_vlan_tags", auxdata},
		{"K11_tap_read_carries_the_tag", tagInTAP},
		{"K12_unprivileged_namespaces_suffice", unprivileged},
		{"F10_bridge_has_an_automatic_address", bridgeAddress},
	} {
		t.Run(row.name, row.test)
	}
}
