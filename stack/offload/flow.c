//go:build ignore

// The third tier: packets of flows that package policy has decided, forwarded where the kernel meets them. Package offload writes the maps and says what
// each means; what a packet must be is what policy.Engine.Hit and its caller want of it, and where they would look twice it is not for here: it goes the
// way that it goes without this program, to the router.

#include "kernel.h"

#define bswap16 __builtin_bswap16
#define bswap32 __builtin_bswap32
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "made for little-endian machines"
#endif

enum { EGRESS, INGRESS }; // policy.Direction: from the guest, to it

enum { FLOWS = 1, NEIGHBOURS = 1 }; // the loader knows how many

// key names a flow, ports in network byte order. Of IPv4 addresses the first four bytes are used. Of echo (RFC 792, RFC 4443 4), both ports are the
// identifier, and opener is the direction of requests.
struct key {
	__u32 guest[4], other[4];
	__u16 guest_port, other_port;
	__u8 proto, family, opener, zero;
};

// side is policy.TCPWindow: of one end of a connection. All but shift only grow.
struct side {
	__u32 una, end, edge, window;
	__u32 shift, zero;
};

// flow has generation 0 while it is nobody's; it is written before that, and not again before the last program that may have found it has ended.
struct flow {
	struct key key;
	__u32 generation, serial;
	__u16 neighbour, mac[3];
	__u64 used; // CLOCK_MONOTONIC, ns

	__u64 idle; // ns
	struct side side[2];
	__u64 zero;

	__u64 packets[2], bytes[2]; // bytes of frames
	__u64 spare[4];
};

// world is what all flows depend on. Nothing is forwarded while its generation is 0.
struct world {
	__u32 generation, mtu;
	__u32 tap, uplink; // interface indexes
	__u16 router_mac[3], uplink_mac[3];
	__u32 zero;
};

// neighbour has in mac the address, the first byte lowest, and above it the lower half of serial, so that one load has what belongs together.
struct neighbour {
	__u64 mac;
	__u32 serial, used;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct world);
} worlds SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, NEIGHBOURS);
	__type(key, __u32);
	__type(value, struct neighbour);
} neighbours SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, FLOWS);
	__type(key, __u32);
	__type(value, struct flow);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, FLOWS);
	__type(key, struct key);
	__type(value, __u32);
} places SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} filters SEC(".maps");

struct ipv4 {
	__u8 version, tos;
	__u16 length, id, fragment;
	__u8 ttl, proto;
	__u16 checksum;
	__u32 src, dst;
};

struct ipv6 {
	__u32 version;
	__u16 length;
	__u8 next, hops;
	__u32 src[4], dst[4];
};

struct udp {
	__u16 src, dst, length, checksum;
};

struct echo {
	__u8 type, code;
	__u16 checksum, id, seq;
};

struct tcp {
	__u16 src, dst;
	__u32 seq, ack;
	__u8 offset, flags;
	__u16 window, checksum, urgent;
};

// packet is what was read of one, and what was found out. dst begins at 2, so that all that follows is aligned.
struct packet {
	__u16 zero;
	__u16 dst[3], src[3], type;
	union {
		struct ipv4 ipv4;
		struct ipv6 ipv6;
	};
	union {
		struct udp udp;
		struct tcp tcp;
		struct echo echo;
	};
	__u32 end; // TCP: the sequence number behind it
	__u64 next; // the neighbour's MAC as in struct neighbour
	__u64 now;
};

INLINE int same_mac(const __u16 *a, const __u16 *b)
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2];
}

INLINE int after(__u32 a, __u32 b)
{
	return (__s32)(a - b) > 0;
}

INLINE int before(__u32 a, __u32 b)
{
	return (__s32)(a - b) < 0;
}

// read_ipv4 takes an IPv4 header without options and fragment bits, whose length is the frame's and whose checksum is right.
INLINE int read_ipv4(struct __sk_buff *skb, struct packet *p, struct key *k, int dir)
{
	const __u16 *word = (const __u16 *)&p->ipv4;
	__u32 sum = 0;

	if (p->ipv4.version != 0x45 || bswap16(p->ipv4.length) != skb->len - ETHER_LEN || p->ipv4.fragment & bswap16(0xbfff) || p->ipv4.ttl <= 1)
		return 0;
#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += word[i];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	if (sum != 0xffff)
		return 0;
	k->family = 4;
	k->proto = p->ipv4.proto;
	k->guest[0] = dir == EGRESS ? p->ipv4.src : p->ipv4.dst;
	k->other[0] = dir == EGRESS ? p->ipv4.dst : p->ipv4.src;
	return sizeof(struct ipv4);
}

// read_ipv6 takes an IPv6 header whose length is the frame's. What follows it is TCP, UDP or echo, or not for here.
INLINE int read_ipv6(struct __sk_buff *skb, struct packet *p, struct key *k, int dir)
{
	enum { REST = sizeof(struct ipv6) - sizeof(struct ipv4) };

	if (bpf_skb_load_bytes(skb, ETHER_LEN + sizeof(struct ipv4), (void *)&p->ipv6 + sizeof(struct ipv4), REST))
		return 0;
	if ((p->ipv6.version & 0xf0) != 0x60 || bswap16(p->ipv6.length) + ETHER_LEN + sizeof(struct ipv6) != skb->len || p->ipv6.hops <= 1)
		return 0;
	k->family = 6;
	k->proto = p->ipv6.next;
	__builtin_memcpy(k->guest, dir == EGRESS ? p->ipv6.src : p->ipv6.dst, sizeof(k->guest));
	__builtin_memcpy(k->other, dir == EGRESS ? p->ipv6.dst : p->ipv6.src, sizeof(k->other));
	return sizeof(struct ipv6);
}

// find is the flow in whose place its key says that it is. An element of the hash table may become another's while it is read; a place does not.
INLINE struct flow *find(const struct key *k)
{
	const __u64 *a = (const __u64 *)k, *b;
	struct flow *f;
	__u32 *place = bpf_map_lookup_elem(&places, k), at;

	if (!place)
		return 0;
	at = ONCE(*place);
	f = bpf_map_lookup_elem(&flows, &at);
	if (!f)
		return 0;
	b = (const __u64 *)&f->key;
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3] && a[4] == b[4] ? f : 0;
}

// checksum_at is where in the transport header a partial checksum may be; ICMP of IPv4 has none.
INLINE __u32 checksum_at(const struct key *k)
{
	switch (k->proto) {
	case PROTO_TCP:
		return 16;
	case PROTO_UDP:
		return 6;
	case PROTO_ICMPV6:
		return 2;
	}
	return ~0;
}

// read_echo is policy.Packet.FlowKey of an echo request or a reply.
INLINE int read_echo(struct packet *p, struct key *k, int dir)
{
	enum { REPLY = 0, REQUEST = 8, REPLY6 = 129, REQUEST6 = 128 };
	int reply = p->echo.type == (k->family == 4 ? REPLY : REPLY6);

	if (k->proto != (k->family == 4 ? PROTO_ICMP : PROTO_ICMPV6) || (!reply && p->echo.type != (k->family == 4 ? REQUEST : REQUEST6)))
		return 0;
	k->guest_port = k->other_port = p->echo.id;
	k->opener = reply ? 1 - dir : dir;
	return 1;
}

// fits is policy.Packet.checkOffload, and that the largest frame that leaves is at most as long as the MTU. header is all headers' length from the
// IP header on.
INLINE int fits(struct __sk_buff *ctx, const struct key *k, __u32 l4, __u32 header, __u32 mtu)
{
	enum { SKB_GSO_HARMLESS = SKB_GSO_DODGY | SKB_GSO_TCP_ECN | SKB_GSO_TCP_FIXEDID, MAX_UDP_SEGMENTS = 128 };
	const struct sk_buff *skb = bpf_cast_to_kern_ctx(ctx);
	__u32 length = ctx->len - ETHER_LEN, size = ctx->gso_size, type;
	int partial = ip_summed(skb) == CHECKSUM_PARTIAL;

	if (partial && ((__u16)(skb->csum_start - skb->mac_header) != ETHER_LEN + l4 || skb->csum_offset != checksum_at(k)))
		return 0;
	if (!size)
		return length <= mtu;
	if (!partial || header + size > mtu || length <= header + size)
		return 0;
	type = gso_type(skb);
	if (k->proto == PROTO_UDP)
		return (type & ~SKB_GSO_DODGY) == SKB_GSO_UDP_L4 && length - header <= MAX_UDP_SEGMENTS * size;
	return k->proto == PROTO_TCP && (type & ~SKB_GSO_HARMLESS) == (k->family == 4 ? SKB_GSO_TCPV4 : SKB_GSO_TCPV6);
}

// plausible is policy's window check of a segment that neither opens nor ends anything. Each word was its connection's at some time while this ran; that
// those of both sides need not be of the same time is as if packets that come together had come in another order.
INLINE int plausible(const struct flow *f, struct packet *p, __u32 payload, int dir)
{
	enum { FIN = 1, SYN = 2, RST = 4, ACK = 16, SLACK = 66000 };
	const struct side *x = &f->side[dir], *y = &f->side[1 - dir];
	__u32 seq = bswap32(p->tcp.seq), ack = bswap32(p->tcp.ack), xwindow = ONCE(x->window), ywindow = ONCE(y->window);

	if ((p->tcp.flags & (FIN | SYN | RST | ACK)) != ACK)
		return 0;
	p->end = seq + payload;
	return !after(seq, ONCE(x->edge) + 1) && !before(p->end, ONCE(x->end) - (ywindow > SLACK ? ywindow : SLACK)) &&
	       !after(ack, ONCE(y->end)) && !before(ack, ONCE(y->una) - (xwindow > SLACK ? xwindow : SLACK));
}

// decide finds the flow by which a packet may be forwarded here, and changes nothing.
INLINE struct flow *decide(struct __sk_buff *skb, struct packet *p, int dir)
{
	__u32 zero = 0, generation, l4, header, payload, at;
	struct key k = {};
	struct neighbour *n;
	struct flow *f;
	struct world *w = bpf_map_lookup_elem(&worlds, &zero);

	if (!w || !(generation = ONCE(w->generation)) || skb->vlan_present)
		return 0;
	if (bpf_skb_load_bytes(skb, 0, p->dst, ETHER_LEN + sizeof(struct ipv4)))
		return 0;
	if (dir == EGRESS) {
		if (!same_mac(p->dst, w->router_mac))
			return 0;
	} else if (!same_mac(p->dst, w->uplink_mac) || p->src[0] & 1 || same_mac(p->src, w->uplink_mac) || same_mac(p->src, w->router_mac) ||
		   !(p->src[0] | p->src[1] | p->src[2])) {
		return 0;
	}
	if (p->type == bswap16(ETHER_IPV4))
		l4 = read_ipv4(skb, p, &k, dir);
	else if (p->type == bswap16(ETHER_IPV6))
		l4 = read_ipv6(skb, p, &k, dir);
	else
		return 0;
	if (!l4)
		return 0;
	if (k.proto == PROTO_UDP) {
		header = l4 + sizeof(struct udp);
		if (bpf_skb_load_bytes(skb, ETHER_LEN + l4, &p->udp, sizeof(struct udp)) || bswap16(p->udp.length) + ETHER_LEN + l4 != skb->len)
			return 0;
	} else if (k.proto == PROTO_TCP) {
		if (bpf_skb_load_bytes(skb, ETHER_LEN + l4, &p->tcp, sizeof(struct tcp)))
			return 0;
		header = l4 + (p->tcp.offset >> 4) * 4;
		if (header < l4 + sizeof(struct tcp) || ETHER_LEN + header > skb->len)
			return 0;
	} else {
		header = l4 + sizeof(struct echo);
		if (bpf_skb_load_bytes(skb, ETHER_LEN + l4, &p->echo, sizeof(struct echo)) || !read_echo(p, &k, dir))
			return 0;
	}
	payload = skb->len - ETHER_LEN - header;
	if (k.proto == PROTO_TCP || k.proto == PROTO_UDP) {
		k.guest_port = dir == EGRESS ? p->udp.src : p->udp.dst;
		k.other_port = dir == EGRESS ? p->udp.dst : p->udp.src;
	}
	f = find(&k);
	if (!f || ONCE(f->generation) != generation || (dir == EGRESS && !same_mac(p->src, f->mac)))
		return 0;
	p->now = bpf_ktime_get_coarse_ns();
	if ((__s64)(p->now - ONCE(f->used)) >= (__s64)f->idle)
		return 0;
	if ((k.proto == PROTO_TCP && !plausible(f, p, payload, dir)) || !fits(skb, &k, l4, header, w->mtu))
		return 0;
	if (dir == INGRESS)
		return f;
	at = f->neighbour;
	n = bpf_map_lookup_elem(&neighbours, &at);
	if (!n || ONCE(n->serial) != f->serial)
		return 0;
	p->next = ONCE(n->mac);
	if (p->next >> 48 != (__u16)f->serial || !(p->next << 16))
		return 0;
	if (!ONCE(n->used))
		n->used = 1;
	return f;
}

// raise_seq makes a sequence number a later one, and raise a number greater, unless another packet has them so already. A packet that comes in between
// again and again gets its way; what this one has to say is then not noted, as if it had been lost behind here.
INLINE void raise_seq(__u32 *p, __u32 to)
{
#pragma unroll
	for (int i = 0; i < 4; i++) {
		__u32 old = ONCE(*p);

		if (!after(to, old) || __sync_val_compare_and_swap(p, old, to) == old)
			return;
	}
}

INLINE void raise(__u32 *p, __u32 to)
{
#pragma unroll
	for (int i = 0; i < 4; i++) {
		__u32 old = ONCE(*p);

		if (to <= old || __sync_val_compare_and_swap(p, old, to) == old)
			return;
	}
}

// note takes what a packet shows that is forwarded.
INLINE void note(struct __sk_buff *skb, struct flow *f, const struct packet *p, int dir)
{
	struct side *x = &f->side[dir], *y = &f->side[1 - dir];

	if (f->key.proto == PROTO_TCP) {
		__u32 ack = bswap32(p->tcp.ack), window = (__u32)bswap16(p->tcp.window) << (x->shift & 15);

		raise_seq(&x->end, p->end);
		raise(&x->window, window);
		raise_seq(&y->edge, ack + window);
		raise_seq(&y->una, ack);
	}
	if (ONCE(f->used) != p->now)
		f->used = p->now;
	__sync_fetch_and_add(&f->packets[dir], 1);
	__sync_fetch_and_add(&f->bytes[dir], skb->len);
}

// forward makes the packet what it is on its next link: MACs and TTL, and the IPv4 header checksum for it, as router.decrement does. An IPv4 header's sum
// stays the same by that; of IPv6, a checksum of the whole packet that a device has made must follow.
INLINE int forward(struct __sk_buff *skb, struct packet *p)
{
	if (p->type == bswap16(ETHER_IPV4)) {
		__u32 sum = bswap16(p->ipv4.checksum) + 0x0100;

		p->ipv4.ttl--;
		p->ipv4.checksum = bswap16(sum + (sum >= 0xffff));
		return bpf_skb_store_bytes(skb, 0, p->dst, ETHER_LEN + __builtin_offsetof(struct ipv4, src), 0) ? TCX_NEXT : 0;
	}
	p->ipv6.hops--;
	if (bpf_skb_store_bytes(skb, ETHER_LEN + __builtin_offsetof(struct ipv6, hops), &p->ipv6.hops, 1, BPF_F_RECOMPUTE_CSUM))
		return TCX_NEXT;
	return bpf_skb_store_bytes(skb, 0, p->dst, ETHER_LEN, 0) ? TCX_DROP : 0;
}

// from_guest is for what the bridge sends into the TAP.
SEC("tcx/egress")
int from_guest(struct __sk_buff *skb)
{
	struct packet p = {};
	__u32 zero = 0;
	struct flow *f = decide(skb, &p, EGRESS);
	struct world *w = bpf_map_lookup_elem(&worlds, &zero);
	int failed;

	if (!f || !w)
		return TCX_NEXT;
	p.dst[0] = p.next;
	p.dst[1] = p.next >> 16;
	p.dst[2] = p.next >> 32;
	__builtin_memcpy(p.src, w->uplink_mac, sizeof(p.src));
	failed = forward(skb, &p);
	if (failed)
		return failed;
	note(skb, f, &p, EGRESS);
	return bpf_redirect(w->uplink, 0);
}

// from_uplink is for what the uplink receives. To the bridge it is as if the router had written it to the TAP.
SEC("tcx/ingress")
int from_uplink(struct __sk_buff *skb)
{
	struct packet p = {};
	__u32 zero = 0;
	struct flow *f = decide(skb, &p, INGRESS);
	struct world *w = bpf_map_lookup_elem(&worlds, &zero);
	int failed;

	if (!f || !w)
		return TCX_NEXT;
	__builtin_memcpy(p.dst, f->mac, sizeof(p.dst));
	__builtin_memcpy(p.src, w->router_mac, sizeof(p.src));
	failed = forward(skb, &p);
	if (failed)
		return failed;
	note(skb, f, &p, INGRESS);
	return bpf_redirect(w->tap, BPF_F_INGRESS);
}

// admit keeps from the router's packet sockets, which get a copy of each frame before from_uplink has it, what from_uplink will forward. All else is for
// the router's own filter. A flow that comes or goes between the two has one packet twice or not at all.
SEC("socket")
int admit(struct __sk_buff *skb)
{
	struct packet p = {};

	if (skb->pkt_type != PACKET_OUTGOING && decide(skb, &p, INGRESS))
		return 0;
	bpf_tail_call(skb, &filters, 0);
	return 0;
}

char _license[] SEC("license") = "Dual MIT/GPL";
