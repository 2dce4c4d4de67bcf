/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* Reading packets. Whatever is not plain and simple is left to the daemon: the functions then say no. */
#ifndef KEDGE_PACKET_H
#define KEDGE_PACKET_H

#include "tables.h"

#define ETH_LEN 14
#define V4_LEN 20
#define V6_LEN 40
#define UDP_LEN 8

#define ETH_V4 bpf_htons(0x0800)
#define ETH_V6 bpf_htons(0x86dd)

#define P_ICMP4 1
#define P_V4 4
#define P_TCP 6
#define P_UDP 17
#define P_V6 41
#define P_GRE 47
#define P_ESP 50
#define P_ICMP6 58
#define P_SCTP 132

#define PORT_UDP bpf_htons(4191) /* RFC 5555 6 */
#define PORT_ESP bpf_htons(4500)
#define MAPPED bpf_htonl(0xffff)
#define MIN_MTU6 1280
#define MAX_PACKET 65535
#define CE 3

struct eth {
	__u8 dst[6], src[6];
	__u16 proto;
} __attribute__((packed));

struct v4 {
	__u8 version, tos;
	__u16 len, id, frag;
	__u8 ttl, proto;
	__u16 check;
	__u32 src, dst;
} __attribute__((packed));

struct v6 {
	__u32 flow; /* version, traffic class, flow label */
	__u16 len;
	__u8 proto, ttl;
	struct addr src, dst;
} __attribute__((packed));

struct udp {
	__u16 src, dst, len, check;
} __attribute__((packed));

struct tcp {
	__u16 src, dst;
	__u32 seq, ack;
	__u8 off, flags;
	__u16 window, check, urgent;
} __attribute__((packed));

#define TCP_LEN 20
#define TCP_BOUNDS 7 /* FIN, SYN, RST */

#define GRE_LEN 4
#define GRE_KEY_LEN 8
#define GRE_KEY bpf_htons(0x2000) /* RFC 2890 2; of the flags the only one that is understood here */

struct gre {
	__u16 flags, proto;
	__u32 key; /* if the flag says so */
} __attribute__((packed));

/* outer is what the outer headers of a packet said. */
struct outer {
	struct addr local, remote;
	__u32 off, end; /* of the inner packet, and of what is around it */
	__u32 key;      /* of GRE, 0 = none */
	__u16 port;     /* of UDP */
	__u8 is4, kind, tos;
};

/* info is what the rules look at. */
struct info {
	struct addr src, dst;
	__u32 len;    /* octets of the packet */
	__u32 seg;    /* of its longest segment */
	__u32 segs;   /* of a super packet, else 1 */
	__u32 octets; /* of all segments */
	__u32 first;  /* IPv6: what the first eight octets sum up to, in the order of the wire */
	__u8 is4, tos, ttl, proto, df;
	__u8 unsummed; /* a UDP datagram without checksum, or with one over a part of it */
	__u8 nests;    /* it may be of a tunnel itself */
};

/* The compiler must not take these for the numbers of 32 bits that they are in the header. */
static __always_inline void *begin(const struct __sk_buff *skb)
{
	void *p;

	asm volatile("%0 = *(u32 *)(%1 + %2)" : "=r"(p) : "r"(skb), "i"(__builtin_offsetof(struct __sk_buff, data)));
	return p;
}

static __always_inline void *end(const struct __sk_buff *skb)
{
	void *p;

	asm volatile("%0 = *(u32 *)(%1 + %2)" : "=r"(p) : "r"(skb), "i"(__builtin_offsetof(struct __sk_buff, data_end)));
	return p;
}

/* The compiler must not compute where a field of the context is: the verifier wants it said in the instruction. */
static __always_inline __u32 gso_size(const struct __sk_buff *skb)
{
	__u32 n;

	asm volatile("%0 = *(u32 *)(%1 + %2)" : "=r"(n) : "r"(skb), "i"(__builtin_offsetof(struct __sk_buff, gso_size)));
	return n;
}

/* at gives n linear octets at off, or 0. Earlier pointers are void afterwards. */
static __always_inline void *at(struct __sk_buff *skb, __u32 off, __u32 n)
{
	void *p;

	if (off > 128) /* the verifier wants to know */
		return 0;
	p = begin(skb) + off;
	if (p + n <= end(skb))
		return p;
	if (bpf_skb_pull_data(skb, off + n))
		return 0;
	p = begin(skb) + off;
	if (p + n <= end(skb))
		return p;
	return 0;
}

static __always_inline __u16 fold(__u64 s)
{
	s = (s & 0xffffffff) + (s >> 32);
	s = (s & 0xffff) + (s >> 16);
	s = (s & 0xffff) + (s >> 16);
	return (s & 0xffff) + (s >> 16);
}

static __always_inline __u64 sum4(const struct v4 *h)
{
	const __u32 *w = (const void *)h;

	return (__u64)w[0] + w[1] + w[2] + w[3] + w[4];
}

static __always_inline struct addr mapped(__u32 a)
{
	struct addr m = { 0, (__u64)MAPPED | (__u64)a << 32 };

	return m;
}

static __always_inline __u32 unmapped(struct addr a)
{
	return a.lo >> 32;
}

static __always_inline int same(struct addr a, struct addr b)
{
	return a.hi == b.hi && a.lo == b.lo;
}

/* plain6: an address that has nothing to do with one link, and is no mapped one. */
static __always_inline int plain6(struct addr a)
{
	if (a.hi == 0) /* unspecified, loopback, mapped, compatible */
		return 0;
	__u16 top = bpf_ntohs((__u16)a.hi);
	return top < 0xfe80; /* link-local, site-local, multicast */
}

static __always_inline int plain4(__u32 a)
{
	__u32 h = bpf_ntohl(a);

	return h >> 24 != 0 && h >> 24 != 127 && h >> 24 < 224 && h >> 16 != 0xa9fe;
}

/*
 * inner reads a packet that is to enter or has left a tunnel, from off to at most end. It says no to what the daemon must see: wrong packets,
 * fragments, options, extension headers, packets of one link, and protocols that may be signalling.
 */
static __always_inline int inner(struct __sk_buff *skb, __u32 off, __u32 end, int is4, struct info *in)
{
	__u32 l4, gso = gso_size(skb);

	in->unsummed = in->nests = 0;
	if (is4) {
		struct v4 *h = at(skb, off, V4_LEN);

		if (!h || h->version != 0x45 || h->frag & bpf_htons(0xbfff) || fold(sum4(h)) != 0xffff)
			return 0;
		if (!plain4(h->src) || !plain4(h->dst))
			return 0;
		in->src = mapped(h->src);
		in->dst = mapped(h->dst);
		in->len = bpf_ntohs(h->len);
		in->tos = h->tos;
		in->ttl = h->ttl;
		in->proto = h->proto;
		in->df = h->frag != 0;
		in->is4 = 1;
		l4 = V4_LEN;
	} else {
		struct v6 *h = at(skb, off, V6_LEN);

		if (!h || (*(__u8 *)h & 0xf0) != 0x60)
			return 0;
		in->src = h->src;
		in->dst = h->dst;
		if (!plain6(in->src) || !plain6(in->dst))
			return 0;
		in->len = V6_LEN + bpf_ntohs(h->len);
		in->tos = bpf_ntohl(h->flow) >> 20;
		in->ttl = h->ttl;
		in->proto = h->proto;
		in->df = 0;
		in->is4 = 0;
		in->first = fold((__u64)h->flow + h->len + (__u16)(h->proto | (__u16)h->ttl << 8));
		l4 = V6_LEN;
	}
	/* What is too short for its own header has no checksum to count on, either. */
	if (off + in->len > end || in->len < l4 + (in->proto == P_TCP ? 20 : UDP_LEN))
		return 0;
	__u32 head = l4;
	switch (in->proto) {
	case P_TCP: {
		if (!gso)
			break;
		__u8 *h = at(skb, off + l4, 20);
		if (!h)
			return 0;
		head += (h[12] >> 4) * 4;
		break;
	}
	case P_UDP: {
		struct udp *h = at(skb, off + l4, UDP_LEN);
		if (!h)
			return 0;
		if (role == GATEWAY && is4 && (h->dst == bpf_htons(67) || h->dst == bpf_htons(68)))
			return 0; /* DHCP is of the link */
		/* The sum of a datagram covers what its own length says. */
		in->unsummed = h->check == 0 || bpf_ntohs(h->len) != in->len - l4;
		in->nests = h->dst == PORT_UDP || h->src == PORT_UDP || h->dst == PORT_ESP || h->src == PORT_ESP;
		head += UDP_LEN;
		break;
	}
	case P_ICMP6: {
		__u8 *h = at(skb, off + l4, 4);
		/*
		 * Neighbor Discovery is of one link; out of a node's tunnel, an echo reply may be the answer to its own probe, and an error
		 * about a packet with headers of route optimization; what finds home agents and prefixes (RFC 6275 6.5 to 6.8) is signalling
		 */
		if (is4 || !h || gso || (h[0] >= 130 && h[0] <= 137) || (h[0] >= 144 && h[0] <= 147) || (h[0] <= 129 && h[0] != 128 && role == NODE && off))
			return 0;
		break;
	}
	case P_ICMP4:
		if (!is4 || gso)
			return 0;
		break;
	case P_SCTP:
	case P_GRE:
		if (gso)
			return 0;
		in->nests = in->proto == P_GRE;
		break;
	default:
		return 0;
	}
	in->seg = in->octets = in->len;
	in->segs = 1;
	if (gso) {
		if (off + in->len != skb->len || in->len <= head)
			return 0;
		in->seg = head + gso;
		in->segs = (in->len - head + gso - 1) / gso;
		in->octets += (in->segs - 1) * head;
	}
	return 1;
}

/*
 * rest is what the octets of a packet in UDP sum up to, without looking at them: a good TCP, UDP or ICMPv6 checksum makes them the
 * complement of the pseudo header, whose addresses cancel those of an IPv6 header; a good IPv4 header is nothing.
 */
static __always_inline __u64 rest(const struct info *in)
{
	__u32 n = in->len - (in->is4 ? V4_LEN : V6_LEN);
	__u64 pseudo = (__u64)bpf_htons(in->proto) + bpf_htons(n);

	if (!in->is4)
		return (__u64)in->first + (__u16)~fold(pseudo);
	if (in->proto == P_ICMP4)
		return 0;
	pseudo += (__u64)unmapped(in->src) + unmapped(in->dst);
	return (__u16)~fold(pseudo);
}

/* checked: the protocols that rest is true of. */
static __always_inline int checked(const struct info *in)
{
	return (in->proto == P_TCP || in->proto == P_UDP || in->proto == P_ICMP4 || in->proto == P_ICMP6) && !in->unsummed;
}

#endif
