// SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only)
/*
 * The fast path of Kedge's data plane: protocols 4 and 41 and GRE over IPv6 and IPv4, UDP 4191 over IPv4. Four programs:
 *
 *   core    ingress of the links that lead to tunnels' other ends: out of tunnels; on an anchor also into them
 *   access  ingress of a gateway's access links: into tunnels
 *   device  egress of the daemon's own device: into tunnels
 *   joined  ingress of the joiner's far end: on with what left a tunnel in segments
 *
 * They take the plain packet of a known session. Everything else they leave alone, so that it reaches the daemon by the ways it
 * would have taken without them; the daemon knows all that they know, and more.
 */
#include "tunnel.h"

/* native sends a packet to a home address into a tunnel: of an anchor. device: there is no other use for it. */
static __always_inline int native(struct __sk_buff *skb, const struct control *c, __u32 mac, int is4, int device, __u64 now, struct info *in)
{
	struct session *s;
	__u32 i, known;
	int many;

	if (!inner(skb, mac, skb->len, is4, in) || optimized(c, in))
		return PASS;
	i = find(in->dst, is4, 0, &known, &many);
	expect(i);
	s = session_at(i);
	if (s)
		return encapsulate(skb, c, i, s, in, mac, !device, now);
	if (i || many || !device)
		return PASS;
	if (known)
		return drop(DEPRECATED);
	return suspect(c, now, in->src, UNKNOWN_HOME);
}

/* own sends a packet of a node, or of its mobile networks, into a tunnel. */
static __always_inline int own(struct __sk_buff *skb, const struct control *c, int is4, __u64 now)
{
	struct info in;
	struct session *s;
	struct keyed r = {};
	__u32 i;

	if (!inner(skb, 0, skb->len, is4, &in) || optimized(c, &in))
		return PASS;
	r.a = in.src;
	i = find_key(&r, (is4 ? FIND_V4 : 0) | FIND_UP);
	s = session_at(i);
	if (talking && s && !is4 && r.whole)
		tell(c, now, in.src, in.dst, 0);
	if (s)
		return encapsulate(skb, c, i, s, &in, 0, 0, now);
	return PASS; /* applications are told why, if that is wanted */
}

/* host sends a packet to a host on an access link. */
static __always_inline int host(struct __sk_buff *skb, const struct control *c, const struct outer *o, __u32 i, struct session *s, struct info *in, int tos,
				int hop, __u64 now)
{
	struct eth *e;
	struct access_link *l = link_at(s->link);
	__u32 join;

	if (!l || !l->ifindex || (hop && in->ttl <= 1) || in->seg > l->mtu)
		return PASS;
	join = joins(skb, c, s, o, in, now);
	if (!bare(skb, o, in, tos, hop))
		return PASS;
	e = at(skb, 0, ETH_LEN);
	if (!e)
		return DROP;
	__builtin_memcpy(e->dst, s->mac, 6);
	__builtin_memcpy(e->src, l->mac, 6);
	count(i, in, 0);
	return hand(skb, join, l->ifindex, 0);
}

/* onward moves a packet from one mobile node to another, tunnel to tunnel: only the outer header changes. */
static __always_inline int onward(struct __sk_buff *skb, const struct control *c, const struct outer *o, __u32 from, __u32 i, struct session *s,
				  struct info *in, int tos, __u64 now)
{
	__u64 way = *(volatile __u64 *)&s->way;
	struct tunnel *t = tunnel_at((__u32)way & ~IN_GRE);
	__u32 mtu, head;
	int found;
	struct hop *next;
	struct v6 *h;
	void *p;

	/* Between framings of two lengths the daemon moves it. */
	if (!t || o->is4 || o->kind == UDP || t->remote.hi == 0 || t->kind != PLAIN || !(way & IN_GRE) != (o->kind != GRE) || !(way >> 32) != !o->key || no_v6_outer || in->nests || tos != in->tos)
		return PASS;
	head = o->off - ETH_LEN;
	mtu = t->mtu;
	if (t->learned && now / 1000000000 < t->learned_until && t->learned < mtu)
		mtu = t->learned;
	if (s->mtu && s->mtu < mtu)
		mtu = s->mtu;
	if (in->seg + head > mtu || in->ttl <= 1 || same(in->dst, t->remote))
		return PASS;
	next = hop_at(way & (HOPS - 1));
	found = next ? way_of(skb, c, next, t, 0, in->seg + head, tos, now) : 0;
	if (!found || !trim(skb, o->off + in->len))
		return PASS;
	p = at(skb, o->off, V4_LEN);
	if (!p)
		return PASS;
	if (in->is4)
		hop4(p);
	else
		((struct v6 *)p)->ttl--;
	if (o->key && !greet(skb, o->off - GRE_KEY_LEN, way >> 32, in->is4))
		return DROP;
	h = at(skb, ETH_LEN, V6_LEN);
	if (!h)
		return DROP;
	h->flow = bpf_htonl(6 << 28 | (__u32)in->tos << 20);
	h->len = bpf_htons(in->len + head - V6_LEN);
	h->ttl = 64;
	h->src = t->local;
	h->dst = t->remote;
	count(from, in, 0);
	count(i, in, 1);
	return leave(skb, &next->f, found, 0);
}

/* forward sends a packet that left a tunnel on: by plain routing, or as the daemon would, into the kernel. */
static __always_inline int forward(struct __sk_buff *skb, const struct control *c, const struct outer *o, __u32 from, struct session *s, struct info *in,
				   int tos, __u64 now)
{
	__u32 join = joins(skb, c, s, o, in, now);
	struct hop *next;
	int found;

	if (c->through || role == NODE) {
		__u32 tun = c->tun;

		if (!tun || !bare(skb, o, in, tos, 0))
			return PASS;
		count(from, in, 0);
		return hand(skb, join, tun, BPF_F_INGRESS);
	}
	if (in->ttl <= 1)
		return PASS;
	next = hop_at(HOPS);
	found = next ? plain(skb, &next->f, in, tos, join, now) : 0;
	if (!found || !bare(skb, o, in, tos, 1))
		return PASS;
	count(from, in, 0);
	return leave(skb, &next->f, found, join);
}

/* arrived takes a packet out of a tunnel. */
static __always_inline int arrived(struct __sk_buff *skb, const struct control *c, const struct outer *o, int is4, __u64 now, struct info *in)
{
	struct session *s, *to;
	struct keyed r = {};
	int many, tos, bridged = 0;
	__u32 i, j, known;

	if (!inner(skb, o->off, o->end, is4, in))
		return PASS;
	if (c->bridged) {
		struct frame f = { o->local, o->remote, o->kind, o->port, o->key };
		__u32 *of = bpf_map_lookup_elem(&bridges, &f);

		bridged = of != 0;
		i = of ? *of : 0;
	}
	if (bridged) {
		many = 0;
		known = i;
	} else {
		r.a = role == ANCHOR ? in->src : in->dst;
		i = find_key(&r, (is4 ? FIND_V4 : 0) | (role == ANCHOR ? FIND_UP : 0));
		known = r.known;
		many = r.many;
	}
	expect(i);
	s = session_at(i);
	if (many || (i && (!s || !s->way)))
		return PASS;
	if (!s || !accepts(s, now, o)) {
		__u32 why = WRONG_TUNNEL;

		if (!bpf_map_lookup_elem(&locals, &o->local))
			return PASS; /* a tunnel of others goes by */
		if (c->nested && (in->proto == P_UDP || in->proto == P_GRE) && bpf_map_lookup_elem(&locals, &in->dst) && peer(c, o))
			return PASS; /* one layer of two */
		if (!s && peer(c, o)) {
			why = role == ANCHOR ? WRONG_SOURCE : UNKNOWN_HOME;
			if (known) {
				s = session_at(known);
				why = role != ANCHOR || (s && accepts(s, now, o)) ? DEPRECATED : WRONG_TUNNEL;
			}
		}
		return suspect(c, now, o->remote, why);
	}
	/* In bridged mode DSCP is the host's own. */
	tos = congestion(in->tos, bridged ? (in->tos & 0xfc) | (o->tos & 3) : o->tos);
	if (tos < 0)
		return PASS;
	if (o->kind == UDP && gso_size(skb) && in->proto == P_UDP)
		return PASS; /* out of UDP, the kernel cannot cut UDP super packets any more; before, it can */
	if (role == GATEWAY)
		return host(skb, c, o, i, s, in, tos, !bridged, now);
	if (talking && role == NODE && !is4 && r.whole)
		tell(c, now, in->dst, in->src, 1);
	if (role == NODE)
		return forward(skb, c, o, i, s, in, tos, now);
	if (bpf_map_lookup_elem(&locals, &in->dst))
		return PASS;
	j = find(in->dst, is4, 0, &known, &many);
	if (j) {
		to = session_at(j);
		return to ? onward(skb, c, o, i, j, to, in, tos, now) : PASS;
	}
	if (known || many)
		return PASS;
	return forward(skb, c, o, i, s, in, tos, now);
}

/* datagram reads UDP over IPv4, and verifies its checksum as far as the inner one does not. */
static __always_inline int datagram(struct __sk_buff *skb, struct outer *o, const struct v4 *h, int *is4, struct info *in)
{
	__u32 n = bpf_ntohs(h->len), src = h->src, dst = h->dst;
	struct udp *u = at(skb, ETH_LEN + V4_LEN, UDP_LEN + 1);
	__u16 check, len, port;
	__u64 sum;

	if (!u || u->dst != PORT_UDP || bpf_ntohs(u->len) != n - V4_LEN)
		return 0;
	check = u->check;
	len = u->len;
	port = u->src;
	*is4 = *(__u8 *)(u + 1) >> 4 == 4;
	o->kind = UDP;
	o->port = port;
	o->off = ETH_LEN + V4_LEN + UDP_LEN;
	if (!check)
		return 1;
	if (!inner(skb, o->off, o->end, *is4, in) || !checked(in) || in->segs != 1 || in->len != n - V4_LEN - UDP_LEN)
		return 0;
	sum = rest(in) + src + dst + bpf_htons(P_UDP) + len + port + PORT_UDP + len + check;
	return fold(sum) == 0xffff;
}

/* keyed reads a GRE header: with a key, or with nothing. */
static __always_inline int keyed(struct __sk_buff *skb, const struct control *c, struct outer *o, int *is4)
{
	struct gre *g = at(skb, o->off, GRE_KEY_LEN); /* without a key, the inner packet has as much */

	if (!g || !c->gre || (g->proto != ETH_V4 && g->proto != ETH_V6) || g->flags & ~GRE_KEY)
		return 0;
	if (g->flags && !g->key)
		return 0; /* 0 stands for none */
	*is4 = g->proto == ETH_V4;
	o->kind = GRE;
	o->key = g->flags ? g->key : 0;
	o->off += g->flags ? GRE_KEY_LEN : GRE_LEN;
	return 1;
}

SEC("tc")
int core(struct __sk_buff *skb)
{
	struct control *c = the_control();
	struct outer o = {};
	struct info in;
	int is4 = 0, tunnel = 0, gre;
	__u64 now;

	if (!c || skb->vlan_present || skb->pkt_type)
		return PASS;
	now = clock(c);
	if (now > c->alive_until)
		return PASS;
	if (skb->protocol == ETH_V6) {
		struct v6 *h = at(skb, ETH_LEN, V6_LEN);

		if (!h || (*(__u8 *)h & 0xf0) != 0x60)
			return PASS;
		is4 = h->proto == P_V4;
		gre = h->proto == P_GRE;
		o.end = ETH_LEN + V6_LEN + bpf_ntohs(h->len);
		tunnel = (is4 || gre || h->proto == P_V6) && o.end <= skb->len;
		o.local = h->dst;
		o.remote = h->src;
		o.tos = bpf_ntohl(h->flow) >> 20;
		o.off = ETH_LEN + V6_LEN;
		if (tunnel && gre)
			tunnel = keyed(skb, c, &o, &is4);
		if (!tunnel)
			is4 = 0;
	} else if (skb->protocol == ETH_V4) {
		struct v4 *h = at(skb, ETH_LEN, V4_LEN);

		if (!h || h->version != 0x45)
			return PASS;
		if ((h->proto == P_V4 || h->proto == P_V6 || h->proto == P_UDP || h->proto == P_GRE) && !(h->frag & bpf_htons(0xbfff)) && fold(sum4(h)) == 0xffff &&
		    (o.end = ETH_LEN + bpf_ntohs(h->len)) <= skb->len) {
			o.is4 = 1;
			o.local = mapped(h->dst);
			o.remote = mapped(h->src);
			o.tos = h->tos;
			o.off = ETH_LEN + V4_LEN;
			is4 = h->proto == P_V4;
			tunnel = h->proto == P_UDP   ? datagram(skb, &o, h, &is4, &in)
				 : h->proto == P_GRE ? keyed(skb, c, &o, &is4)
						     : 1;
		}
		if (!tunnel)
			is4 = 1;
	} else {
		return PASS;
	}
	if (!tunnel)
		return role == ANCHOR && !c->through ? native(skb, c, ETH_LEN, is4, 0, now, &in) : PASS;
	return arrived(skb, c, &o, is4, now, &in);
}

/* at_home reports whether a frame comes from the host of a session, on its link. */
static __always_inline int at_home(struct __sk_buff *skb, const struct session *s, const __u8 *mac)
{
	struct access_link *l = link_at(s->link);
	const __u16 *a = (const void *)s->mac, *b = (const void *)mac;

	return l && l->ifindex == skb->ifindex && a[0] == b[0] && a[1] == b[1] && a[2] == b[2];
}

/*
 * settled hides from the verifier what it has found out about a packet, and gives hop back: what follows is then looked at once, and not for each
 * way that led there, which is more than Linux 6.1 is ready to do. It is no static function, so that the verifier believes it.
 */
__noinline int settled(struct info *in, int hop)
{
	asm volatile("" : "+r"(hop) : : "memory");
	return in ? hop : 0;
}

static __always_inline __u16 link_of(__u32 ifindex)
{
	for (__u32 i = 1; i < LINKS; i++) {
		struct access_link *l = link_at(i);

		if (!l || l->ifindex == ifindex)
			return i;
	}
	return 0;
}

SEC("tc")
int access(struct __sk_buff *skb)
{
	struct control *c = the_control();
	struct session *s;
	struct access_link *l;
	struct addr who = {};
	struct info in;
	struct host from = {};
	struct eth *e;
	int is4, many, bridged = 0;
	__u32 i, j, known, *of = 0;
	__u64 now;

	if (!c || skb->vlan_present)
		return PASS;
	now = clock(c);
	if (now > c->alive_until)
		return PASS;
	is4 = skb->protocol == ETH_V4;
	if ((!is4 && skb->protocol != ETH_V6) || !inner(skb, ETH_LEN, skb->len, is4, &in))
		return PASS;
	if (c->bridged) {
		e = at(skb, 0, ETH_LEN);
		if (!e)
			return PASS;
		from.link = link_of(skb->ifindex);
		__builtin_memcpy(from.mac, e->src, 6);
		of = bpf_map_lookup_elem(&hosts, &from);
		bridged = of && *of;
	}
	if (bridged) {
		many = 0;
		i = known = *of;
	} else {
		i = find(in.src, is4, 1, &known, &many);
	}
	s = session_at(i);
	e = at(skb, 0, ETH_LEN);
	if (many || !e || (e->src[0] & 1) || (e->dst[0] & 1) || (i && (!s || !s->way)))
		return PASS;
	l = s ? link_at(s->link) : 0;
	if (!s || !at_home(skb, s, e->src)) {
		struct host h = {};
		struct session *of = session_at(known);

		h.link = link_of(skb->ifindex);
		__builtin_memcpy(h.mac, e->src, 6);
		__builtin_memcpy(&who, &h, sizeof(h));
		return suspect(c, now, who, !bpf_map_lookup_elem(&hosts, &h) ? UNKNOWN_HOST : !s && of && at_home(skb, of, h.mac) ? DEPRECATED : WRONG_SOURCE);
	}
	for (int k = 0; k < 6; k++)
		if (!l || l->mac[k] != e->dst[k])
			return PASS;
	if (local_routing && !bridged) {
		j = find(in.dst, is4, 0, &known, &many);
		if (j || known)
			return PASS;
	}
	return encapsulate(skb, c, i, s, &in, ETH_LEN, settled(&in, !bridged), now);
}

SEC("tc")
int device(struct __sk_buff *skb)
{
	struct control *c = the_control();
	struct info in;
	__u64 now;
	int is4;

	if (!c)
		return PASS;
	now = clock(c);
	if (now > c->alive_until)
		return PASS;
	is4 = skb->protocol == ETH_V4;
	if (!is4 && skb->protocol != ETH_V6)
		return PASS;
	return role == ANCHOR ? native(skb, c, 0, is4, 1, now, &in) : own(skb, c, is4, now);
}

SEC("tc")
int joined(struct __sk_buff *skb)
{
	struct control *c = the_control();
	__u32 to = skb->mark;
	struct eth *e = at(skb, 0, ETH_LEN);

	if (!c || !e || !to)
		return DROP; /* nobody else sends by the joiner */
	skb->mark = 0;
	if (to & TO_KERNEL)
		return bpf_redirect(to & ~TO_KERNEL, BPF_F_INGRESS);
	if (role == ANCHOR && asks(to, e->dst, clock(c)))
		return bpf_redirect_neigh(to, 0, 0, 0);
	return bpf_redirect(to, 0);
}

char _license[] SEC("license") = "Dual BSD/GPL";
