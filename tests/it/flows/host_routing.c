/* What Cilium's host routing does with a pod's packet, and nothing else: the kernel's FIB is asked for the next hop, and the packet is
 * redirected there past the node's IP stack. Compiled and loaded by host_routing.rs. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>

#define AF_INET 2
static long (*const fib_lookup)(void *, void *, int, __u32) = (void *)BPF_FUNC_fib_lookup;
static long (*const redirect_neigh)(__u32, void *, int, __u64) = (void *)BPF_FUNC_redirect_neigh;

__attribute__((section("tc"), used)) int route(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;
	struct iphdr *ip = data + sizeof(*eth);

	if ((void *)(ip + 1) > end || eth->h_proto != __builtin_bswap16(ETH_P_IP))
		return TC_ACT_OK;

	struct bpf_fib_lookup fib = {
		.family = AF_INET,
		.ifindex = skb->ingress_ifindex,
		.ipv4_src = ip->saddr,
		.ipv4_dst = ip->daddr,
		.l4_protocol = ip->protocol,
		.tot_len = __builtin_bswap16(ip->tot_len),
	};
	long found = fib_lookup(skb, &fib, sizeof(fib), 0);

	if (found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH)
		return TC_ACT_OK;

	struct bpf_redir_neigh next = { .nh_family = AF_INET, .ipv4_nh = fib.ipv4_dst };

	return redirect_neigh(fib.ifindex, &next, sizeof(next), 0);
}

__attribute__((section("license"), used)) char gpl[] = "GPL";
