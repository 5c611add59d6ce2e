// What flow.c needs of the kernel besides its stable interface: how programs are written down, and the few fields of struct sk_buff that say what a
// device is still to do to a packet, which the loader finds by the running kernel's type information (BTF).
#include <linux/bpf.h>

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define ONCE(x) (*(const volatile typeof(x) *)&(x))

#define __uint(name, value) int(*name)[value]
#define __type(name, value) typeof(value) *name

static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*bpf_skb_load_bytes)(const void *skb, __u32 offset, void *to, __u32 len) = (void *)BPF_FUNC_skb_load_bytes;
static long (*bpf_skb_store_bytes)(struct __sk_buff *skb, __u32 offset, const void *from, __u32 len, __u64 flags) = (void *)BPF_FUNC_skb_store_bytes;
static long (*bpf_redirect)(__u32 ifindex, __u64 flags) = (void *)BPF_FUNC_redirect;
static long (*bpf_tail_call)(void *ctx, void *programs, __u32 index) = (void *)BPF_FUNC_tail_call;
static __u64 (*bpf_ktime_get_coarse_ns)(void) = (void *)BPF_FUNC_ktime_get_coarse_ns;

extern void *bpf_cast_to_kern_ctx(void *ctx) __attribute__((section(".ksyms")));
extern void *bpf_rdonly_cast(const void *obj, __u32 btf_id) __attribute__((section(".ksyms")));

// linux/pkt_cls.h, which has TCX_NEXT under the name of TC_ACT_UNSPEC; linux/if_packet.h; linux/if_ether.h; linux/in.h
enum { TCX_NEXT = -1, TCX_DROP = 2 };
enum { PACKET_OUTGOING = 4 };
enum { ETHER_LEN = 14, ETHER_IPV4 = 0x0800, ETHER_IPV6 = 0x86dd };
enum { PROTO_ICMP = 1, PROTO_TCP = 6, PROTO_UDP = 17, PROTO_ICMPV6 = 58 };

#define RELOCATED __attribute__((preserve_access_index))

struct sk_buff {
	unsigned char *head;
	__u16 mac_header;
	__u16 csum_start; // from head, like mac_header
	__u16 csum_offset;
	__u8 ip_summed : 2;
	unsigned int end; // from head: struct skb_shared_info
} RELOCATED;

struct skb_shared_info {
	unsigned int gso_type;
} RELOCATED;

// linux/skbuff.h
enum { CHECKSUM_PARTIAL = 3 };
enum skb_gso { SKB_GSO_TCPV4 = 1, SKB_GSO_DODGY = 2, SKB_GSO_TCP_ECN = 4, SKB_GSO_TCP_FIXEDID = 8, SKB_GSO_TCPV6 = 16, SKB_GSO_UDP_L4 = 1 << 17 };

// ip_summed is a bit field, whose place is another in each kernel.
INLINE int ip_summed(const struct sk_buff *skb)
{
	enum { BYTE_OFFSET, BYTE_SIZE, EXISTS, SIGNED, LEFT, RIGHT };
	const void *at = (const void *)skb + __builtin_preserve_field_info(skb->ip_summed, BYTE_OFFSET);
	__u64 value = 0;

	switch (__builtin_preserve_field_info(skb->ip_summed, BYTE_SIZE)) {
	case 1:
		value = *(const __u8 *)at;
		break;
	case 2:
		value = *(const __u16 *)at;
		break;
	case 4:
		value = *(const __u32 *)at;
		break;
	case 8:
		value = *(const __u64 *)at;
	}
	value <<= __builtin_preserve_field_info(skb->ip_summed, LEFT);
	return value >> __builtin_preserve_field_info(skb->ip_summed, RIGHT);
}

INLINE unsigned int gso_type(const struct sk_buff *skb)
{
	const struct skb_shared_info *info = bpf_rdonly_cast(skb->head + skb->end, __builtin_btf_type_id(*(struct skb_shared_info *)0, 1));

	return info->gso_type;
}
