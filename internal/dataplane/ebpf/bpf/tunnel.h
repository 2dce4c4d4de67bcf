/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* Into a tunnel and out of it. Nothing is changed before it is sure that the packet can leave; so PASS is always possible. */
#ifndef KEDGE_TUNNEL_H
#define KEDGE_TUNNEL_H

#include "lookup.h"

#define GROW (BPF_F_ADJ_ROOM_FIXED_GSO) /* segments are as long as their sender made them */
#define DECAP_V4 (1ULL << 7)
#define DECAP_V6 (1ULL << 8)
#define LOOPBACK 1 /* routes are looked up as for packets of this host */
#define AF_INET_ 2
#define AF_INET6_ 10

/*
 * route finds where a packet leaves, and the addresses of the frame. 0: nowhere that this program knows, or to a neighbour whose address
 * the kernel has yet to find. A packet that waits for that belongs to its socket still, and TCP sends nothing again that is in a queue of
 * its host (skb_still_in_host_queue): it would wait for a router that was left behind, whatever the way is by then. The daemon's packets
 * are its own.
 */
static __always_inline int route(struct __sk_buff *skb, struct bpf_fib_lookup *f, int is4, struct addr src, struct addr dst, __u32 len, __u8 tos)
{
	long r;

	__builtin_memset(f, 0, sizeof(*f));
	f->ifindex = LOOPBACK;
	f->tot_len = len;
	if (is4) {
		f->family = AF_INET_;
		f->tos = tos & 0xfc;
		f->ipv4_src = unmapped(src);
		f->ipv4_dst = unmapped(dst);
	} else {
		f->family = AF_INET6_;
		__builtin_memcpy(f->ipv6_src, &src, 16);
		__builtin_memcpy(f->ipv6_dst, &dst, 16);
	}
	r = bpf_fib_lookup(skb, f, sizeof(*f), 0);
	/* a device without Ethernet addresses has other frames */
	return r == BPF_FIB_LKUP_RET_SUCCESS && (f->dmac[0] | f->dmac[1] | f->dmac[2] | f->dmac[3] | f->dmac[4] | f->dmac[5]);
}

static __always_inline struct hop *hop_at(__u32 i)
{
	return bpf_map_lookup_elem(&hops, &i);
}

#define REMEMBER 1000000000ULL /* ns */

/*
 * way_of is route to the other end of tunnel i, asked of the kernel once a second, and when the daemon heard that something changed.
 * The packet that asks leaves by the kernel's own neighbour code, as in plain.
 */
static __always_inline int way_of(struct __sk_buff *skb, const struct control *c, struct hop *h, const struct tunnel *t, int is4, __u32 len, __u8 tos,
				  __u64 now)
{
	__u32 news = *(volatile __u32 *)&c->news;
	int found;

	tos &= 0xfc;
	if (h->secret == t->secret && h->news == news && now < h->until && h->tos == tos && len <= h->f.mtu_result)
		return 1;
	found = route(skb, &h->f, is4, t->local, t->remote, len, tos);
	h->secret = t->secret;
	h->until = found ? now + REMEMBER : 0;
	h->news = news;
	h->tos = tos;
	return found ? 2 : 0;
}

/* asks reports whether it is time for the kernel to hear that a neighbour is in use. */
static __always_inline int asks(__u32 ifindex, const __u8 *mac, __u64 now)
{
	__u32 i = (ifindex ^ mac[3] ^ mac[4] ^ mac[5] * 7) & (ASKED - 1);
	__u64 *next = bpf_map_lookup_elem(&asked, &i);

	if (!next || now < *next)
		return 0;
	*next = now + REMEMBER;
	return 1;
}

/*
 * plain is route for a packet that is in no tunnel. A lookup does not tell the kernel that a neighbour is in use, so it would never
 * verify one whose address became stale (RFC 4861 7.3.3); one packet a second to each leaves by its own neighbour code, which does; of those that the
 * joiner has, behind it.
 */
static __always_inline int plain(struct __sk_buff *skb, struct bpf_fib_lookup *f, const struct info *in, __u8 tos, __u32 join, __u64 now)
{
	int found = route(skb, f, in->is4, in->src, in->dst, in->seg, tos);

	return found && !join && asks(f->ifindex, f->dmac, now) ? 2 : found;
}

#define WHOLE 1000000000ULL /* ns for which a tunnel that brought a super packet is taken for one that brings them */
#define TO_KERNEL (1U << 31) /* in the mark of a packet in the joiner: it comes in by that interface, and does not leave by it */

/*
 * joins gives the interface by which a packet that leaves a tunnel of session s goes on, if that is the joiner: a pair of veth whose far end puts the
 * segments of a stream together (GRO), as drivers of network cards do, but not for what was in UDP. So what follows costs once and not for each
 * segment. 0: it goes straight to where it is meant for. Segments must not pass each other. So what comes in super packets, which the joiner would
 * cut, goes without it, and all else that is of the tunnel, for a second; and of a stream, all but acknowledgements alone. A mark says where the
 * joiner's packets go, so what has another one's mark goes without.
 */
static __always_inline __u32 joins(struct __sk_buff *skb, const struct control *c, const struct session *s, const struct outer *o, const struct info *in,
				   __u64 now)
{
	__u32 head = in->is4 ? V4_LEN : V6_LEN, join = *(volatile __u32 *)&c->join;
	struct tunnel *t;
	struct tcp *h;

	if (!join || now > c->join_until || in->proto != P_TCP || skb->mark)
		return 0;
	t = tunnel_at((__u32)s->way & ~IN_GRE);
	if (!t)
		return 0;
	if (gso_size(skb)) {
		if ((__s64)(now - t->whole) > (__s64)WHOLE / 8)
			t->whole = now;
		return 0;
	}
	if ((__s64)(now - t->whole) < (__s64)WHOLE) /* another processor's now may be later */
		return 0;
	h = at(skb, o->off + head, TCP_LEN);
	if (!h || (in->len <= head + (h->off >> 4) * 4 && !(h->flags & TCP_BOUNDS)))
		return 0;
	/* GRO keeps few streams of one hash, and the card's is that of the tunnel. */
	bpf_set_hash(skb, mix(mix(in->src.lo ^ in->dst.lo) ^ ((__u32)h->src << 16 | h->dst)) >> 20);
	return join;
}

/* hand gives a frame to an interface, or to the joiner, which puts it together with others before. */
static __always_inline int hand(struct __sk_buff *skb, __u32 join, __u32 ifindex, __u64 flags)
{
	if (!join)
		return bpf_redirect(ifindex, flags);
	skb->mark = ifindex | (flags ? TO_KERNEL : 0);
	skb->queue_mapping = bpf_get_smp_processor_id() + 1; /* of each processor its own */
	return bpf_redirect(join, 0);
}

/* leave sends a frame, whose Ethernet header has its protocol already, on the way that route found. */
static __always_inline int leave(struct __sk_buff *skb, struct bpf_fib_lookup *f, int found, __u32 join)
{
	struct eth *e = begin(skb);

	if (found == 2) {
		struct bpf_redir_neigh nh = {};

		nh.nh_family = f->family;
		__builtin_memcpy(nh.ipv6_nh, f->ipv6_dst, 16);
		return bpf_redirect_neigh(f->ifindex, &nh, sizeof(nh), 0);
	}
	if ((void *)(e + 1) > end(skb))
		return DROP;
	__builtin_memcpy(e->dst, f->dmac, 6);
	__builtin_memcpy(e->src, f->smac, 6);
	return hand(skb, join, f->ifindex, 0);
}

/* hop takes one from the hop limit of a packet at h. */
static __always_inline void hop4(struct v4 *h)
{
	__u32 sum = h->check + bpf_htons(0x0100); /* RFC 1624 */

	h->check = sum + (sum >= 0xffff);
	h->ttl--;
}

/* trim cuts what a link added to short frames. */
static __always_inline int trim(struct __sk_buff *skb, __u32 len)
{
	return skb->len == len || (!gso_size(skb) && !bpf_skb_change_tail(skb, len, 0));
}

static __always_inline __u16 mark(const struct tunnel *t, __u32 len)
{
	__u64 x = (t->secret ^ len) * 0x9e3779b97f4a7c15ULL;
	__u16 id;

	x = (x ^ x >> 29) * 0xbf58476d1ce4e5b9ULL;
	id = x >> 48;
	return id ? id : 1;
}

/*
 * greet writes a GRE header at off, RFC 2784 2.1, RFC 2890 2. It asks for room for a key in any case, the inner packet has as much: whether there
 * is one is a question that the verifier of Linux 6.1 forgets the answer of.
 */
static __always_inline int greet(struct __sk_buff *skb, __u32 off, __u32 key, int is4)
{
	struct gre *g = at(skb, off, GRE_KEY_LEN);

	if (!g)
		return 0;
	g->flags = key ? GRE_KEY : 0;
	g->proto = is4 ? ETH_V4 : ETH_V6;
	if (key)
		g->key = key;
	return 1;
}

/*
 * encapsulate sends a packet into the tunnel of session i. mac is the length of its link-layer header; hop says that this router
 * forwards it.
 */
static __always_inline int encapsulate(struct __sk_buff *skb, const struct control *c, __u32 i, struct session *s, struct info *in, __u32 mac,
				       int hop, __u64 now)
{
	__u64 way = *(volatile __u64 *)&s->way;
	struct tunnel *t = tunnel_at((__u32)way & ~IN_GRE);
	__u32 mtu, head, gre;
	__u64 flags = GROW;
	int out4, udp, found;
	struct hop *to;
	struct eth *e;
	__u8 ttl = 64;

	if (!t)
		return PASS;
	out4 = t->remote.hi == 0;
	udp = t->kind == UDP;
	gre = !(way & IN_GRE) ? 0 : way >> 32 ? GRE_KEY_LEN : GRE_LEN;
	head = (out4 ? V4_LEN : V6_LEN) + (udp ? UDP_LEN : gre);
	mtu = t->mtu;
	if (t->learned && now / 1000000000 < t->learned_until && t->learned < mtu)
		mtu = t->learned;
	if (s->mtu && s->mtu < mtu)
		mtu = s->mtu;
	if (in->seg + head > mtu || in->len + head > MAX_PACKET || (hop && in->ttl <= 1))
		return PASS;
	if (same(in->dst, t->remote) || (in->is4 && same(in->src, t->remote)))
		return PASS; /* perhaps a loop, RFC 2473 4.1.2, RFC 2003 3.2 */
	if (out4 ? 0 : udp || no_v6_outer)
		return PASS;
	/*
	 * Of a device that sums nothing the kernel takes UDP super packets that say where their sum belongs without saying that it is
	 * missing (udp_send_skb), and forgets the place when they get more headroom: nobody can cut them afterwards.
	 */
	if (!mac && gso_size(skb) && in->proto == P_UDP)
		return PASS;
	if (udp && in->segs == 1 && !checked(in))
		return PASS;
	to = hop_at(way & (HOPS - 1));
	found = to ? way_of(skb, c, to, t, out4, in->seg + head, in->tos, now) : 0;
	if (!found || !trim(skb, mac + in->len))
		return PASS;
	/* What is in a tunnel has no more hops left in this one: it might come round. */
	if (in->nests && !(s->flags & BRIDGED) && in->ttl - !!hop < ttl)
		ttl = in->ttl - !!hop;

	flags |= out4 ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV6;
	if (udp)
		flags |= BPF_F_ADJ_ROOM_ENCAP_L4_UDP;
	if (gre)
		flags |= BPF_F_ADJ_ROOM_ENCAP_L4_GRE;
	if (bpf_skb_adjust_room(skb, head, BPF_ADJ_ROOM_MAC, flags))
		return PASS;
	if (!mac) {
		if (bpf_skb_change_head(skb, ETH_LEN, 0))
			return DROP;
	}
	if (out4) {
		struct v4 *h = at(skb, ETH_LEN, V4_LEN + UDP_LEN + V4_LEN);
		__u64 sum;

		if (!h)
			return DROP;
		h->version = 0x45;
		h->tos = in->tos;
		h->len = bpf_htons(in->len + head);
		h->ttl = ttl;
		h->proto = udp ? P_UDP : gre ? P_GRE : in->is4 ? P_V4 : P_V6;
		h->src = unmapped(t->local);
		h->dst = unmapped(t->remote);
		/* RFC 2003 3.1; RFC 4213 3.2 */
		if (s->flags & BRIDGED ? 0 : in->is4 ? in->df : (!s->mtu && mtu - head >= MIN_MTU6)) {
			h->frag = bpf_htons(0x4000);
			h->id = bpf_htons(mark(t, in->seg + head));
		} else {
			__u16 id = (__u32)t->secret + __sync_fetch_and_add(&t->ids, in->segs);
			h->frag = 0;
			h->id = bpf_htons(id ? id : 1);
		}
		h->check = 0;
		h->check = ~fold(sum4(h));
		if (udp) {
			struct udp *u = (void *)(h + 1);

			u->src = PORT_UDP;
			u->dst = t->rport;
			u->len = bpf_htons(in->len + UDP_LEN);
			u->check = 0;
			if (in->segs == 1) { /* the segments of others have none: each would need its own */
				__u16 check;

				if (hop && !in->is4)
					in->first = fold((__u64)in->first + (__u16)~bpf_htons(0x0001));
				sum = rest(in) + h->src + h->dst + bpf_htons(P_UDP) + u->len + u->src + u->dst + u->len;
				check = ~fold(sum);
				u->check = check ? check : 0xffff;
			}
		}
	} else {
		struct v6 *h = at(skb, ETH_LEN, V6_LEN + V4_LEN);

		if (!h)
			return DROP;
		h->flow = bpf_htonl(6 << 28 | (__u32)in->tos << 20);
		h->len = bpf_htons(in->len + gre);
		h->proto = gre ? P_GRE : in->is4 ? P_V4 : P_V6;
		h->ttl = ttl;
		h->src = t->local;
		h->dst = t->remote;
	}
	if (gre && !greet(skb, ETH_LEN + head - gre, way >> 32, in->is4))
		return DROP;
	if (hop) {
		void *p = at(skb, ETH_LEN + head, V4_LEN);

		if (!p)
			return DROP;
		if (in->is4)
			hop4(p);
		else
			((struct v6 *)p)->ttl--;
	}
	e = at(skb, 0, ETH_LEN);
	if (!e)
		return DROP;
	e->proto = out4 ? ETH_V4 : ETH_V6;
	count(i, in, 1);
	return leave(skb, &to->f, found, 0);
}

/* congestion is the traffic class of a packet that leaves a tunnel, RFC 6040 figure 4, RFC 2983; -1: the daemon drops it. */
static __always_inline int congestion(__u8 in, __u8 out)
{
	__u8 e = in & 3, o = out & 3;

	if (o == CE) {
		if (!e)
			return -1;
		e = CE;
	} else if (e == 2 && o == 1) {
		e = 1;
	}
	return (out & 0xfc) | e;
}

/* bare takes the outer headers off, and leaves a frame of the inner packet with traffic class tos and one hop less, or none. */
static __always_inline int bare(struct __sk_buff *skb, const struct outer *o, struct info *in, int tos, int hop)
{
	__u64 flags = GROW;
	struct eth *e;

	if (o->is4 != in->is4)
		flags |= in->is4 ? DECAP_V4 : DECAP_V6;
	if (o->is4 != in->is4 && !cross)
		return 0;
	if (!trim(skb, o->off + in->len))
		return 0;
	if (bpf_skb_adjust_room(skb, -(__s32)(o->off - ETH_LEN), BPF_ADJ_ROOM_MAC, flags))
		return 0;
	/* Checksums of hardware over the packet stay right: those of IPv4 headers change nothing, others are told. */
	if (in->is4) {
		struct v4 *h = at(skb, ETH_LEN, V4_LEN);

		if (!h)
			return 0;
		if (tos != in->tos) {
			__u64 sum = (__u64)(__u16)~h->check + (__u16)~bpf_htons(in->tos) + bpf_htons(tos);

			h->tos = tos;
			h->check = ~fold(sum);
		}
		if (hop)
			hop4(h);
	} else if (tos != in->tos || hop) {
		struct v6 *h = at(skb, ETH_LEN, V6_LEN);
		__u64 w;

		if (!h)
			return 0;
		w = *(__u64 *)h;
		w = (w & ~(__u64)bpf_htonl(0x0ff00000)) | bpf_htonl((__u32)tos << 20);
		if (hop)
			w -= 1ULL << 56;
		if (bpf_skb_store_bytes(skb, ETH_LEN, &w, 8, BPF_F_RECOMPUTE_CSUM))
			return 0;
	}
	e = at(skb, 0, ETH_LEN);
	if (!e)
		return 0;
	e->proto = in->is4 ? ETH_V4 : ETH_V6;
	return 1;
}

#endif
