/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* Who a packet belongs to, and what is not to be let in. */
#ifndef KEDGE_LOOKUP_H
#define KEDGE_LOOKUP_H

#include "packet.h"

/* Verdicts, the same for tcx and for a classifier with direct action. */
#define PASS (-1) /* to the next program, and in the end to the kernel */
#define DROP 2

static __always_inline struct control *the_control(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&control, &zero);
}

static __always_inline __u64 clock(const struct control *c)
{
	return fake_clock ? c->fake_now : bpf_ktime_get_coarse_ns();
}

static __always_inline int drop(__u32 why)
{
	__u64 *n = bpf_map_lookup_elem(&drops, &why);

	if (n)
		*n += 1; /* of this processor only */
	return DROP;
}

#define NO_SESSION (~0u)

static __always_inline struct session *session_at(__u32 i)
{
	return i ? bpf_map_lookup_elem(&sessions, &i) : 0;
}

static __always_inline struct tunnel *tunnel_at(__u32 i)
{
	return i ? bpf_map_lookup_elem(&tunnels, &i) : 0;
}

static __always_inline struct access_link *link_at(__u32 i)
{
	return i ? bpf_map_lookup_elem(&access_links, &i) : 0;
}

/* What find was asked and found. */
struct keyed {
	struct addr a;
	__u32 known, many;
	__u32 whole, pad; /* the key that was found is one address */
};

#define FIND_V4 1
#define FIND_UP 2

/*
 * find_key walks the keys that hold an address, longest first, until one has a session in the direction. known: there are keys; it
 * is a session of one of them, if that is to be had. It is no static function, so that the verifier looks at it once by itself.
 */
__noinline __u32 find_key(struct keyed *r, __u32 how)
{
	const struct control *c = the_control();
	const struct length *l;
	int up = how & FIND_UP;
	__u32 n;

	if (!r || !c)
		return 0;
	l = how & FIND_V4 ? c->four : c->six;
	n = how & FIND_V4 ? c->n4 : c->n6;
	r->known = r->many = r->whole = 0;
	for (int i = 0; i < MAX_LENGTHS; i++) {
		struct key k = {};
		struct where *w;
		__u32 at, check;

		if (i >= n)
			break;
		k.domain = domain;
		k.bits = l[i].bits;
		k.addr.hi = r->a.hi & l[i].mask.hi;
		k.addr.lo = r->a.lo & l[i].mask.lo;
		w = bpf_map_lookup_elem(&keys, &k);
		if (!w)
			continue;
		check = k.addr.lo ^ k.addr.lo >> 32 ^ k.addr.hi ^ k.addr.hi >> 32;
		at = up ? w->up : w->down;
		r->whole = k.bits == 128;
		r->known = w->up ? w->up : NO_SESSION;
		if (w->check != check || w->flags & (up ? KEY_MANY | KEY_ASK : KEY_ASK)) {
			r->many = 1;
			return 0;
		}
		if (up && w->flags & KEY_SILENT)
			at = 0;
		if (at || (up && role == GATEWAY)) /* a host's longest key says whether it may send */
			return at;
	}
	return 0;
}

static __always_inline __u32 find(struct addr a, int is4, int up, __u32 *known, int *many)
{
	struct keyed r = { a, 0, 0, 0, 0 };
	__u32 at = find_key(&r, (is4 ? FIND_V4 : 0) | (up ? FIND_UP : 0));

	*known = r.known;
	*many = r.many;
	return at;
}

/* comes reports whether a packet is of a tunnel or its other framing, or in GRE of the key. */
static __always_inline int comes(__u32 tun, __u16 twin, __u32 key, const struct outer *o)
{
	struct tunnel *t = tunnel_at(tun & ~IN_GRE);

	if (!t || !same(t->local, o->local) || !same(t->remote, o->remote))
		return 0;
	if (o->kind == GRE || tun & IN_GRE)
		return o->kind == GRE && tun & IN_GRE && key == o->key;
	if (o->kind == PLAIN)
		return t->kind == PLAIN || o->is4;
	return t->kind == UDP ? t->rport == o->port : o->is4 && twin == o->port;
}

static __always_inline int accepts(const struct session *s, __u64 now, const struct outer *o)
{
	return comes(s->way, s->twin, s->key, o) || (now < s->until && comes(s->prev, s->prev_twin, s->prev_key, o));
}

static __always_inline __u64 mix(__u64 x)
{
	x *= 0x9e3779b97f4a7c15ULL;
	return x ^ x >> 32;
}

/* peer reports whether a session knows the tuple; another tuple of the same hash may stand in, which changes a counter's name only. */
static __always_inline int peer(const struct control *c, const struct outer *o)
{
	__u64 x = mix(mix(mix(mix(c->seed ^ o->local.hi) ^ o->local.lo) ^ o->remote.hi) ^ o->remote.lo);
	__u64 *n;
	__u32 i;

	x = mix(x ^ ((__u64)o->key << 32 | (__u32)o->kind << 16 | o->port));
	i = x & c->peers_mask;
	n = bpf_map_lookup_elem(&peers, &i);
	return n && *n;
}

#define PER_SOURCE 5000000ULL /* ns between two packets of one stranger that the daemon looks at */
#define PER_ALL 200000ULL     /* of all */
#define BURST 1000000000ULL   /* ns worth of them at once */

/* take is one token of a bucket that refills one in every ns. Two processors may take the same one. */
static __always_inline int take(__u32 bucket, __u64 now, __u64 every)
{
	__u64 *b = bpf_map_lookup_elem(&limits, &bucket);
	__u64 next;

	if (!b)
		return 0;
	next = *b > now ? *b : now;
	if (next + every > now + BURST)
		return 0;
	*b = next + every;
	return 1;
}

/*
 * suspect is what no session explains: the daemon looks at a few, tells who did it, and counts the drop by itself. The others are
 * dropped here.
 */
static __always_inline int suspect(const struct control *c, __u64 now, struct addr who, __u32 why)
{
	__u64 x = mix(mix(c->seed ^ who.hi) ^ who.lo);

	if (c->partial)
		return PASS;
	if (take(1 + (x >> 20) % (LIMITS - 1), now, PER_SOURCE) && take(0, now, PER_ALL))
		return PASS;
	return drop(why);
}

/* expect has the line of the cache that count writes fetched while that of the session is: of many sessions, both come from memory. */
static __always_inline void expect(__u32 at)
{
	struct counter *n = bpf_map_lookup_elem(&counters, &at);

	if (n)
		(void)*(volatile __u64 *)&n->packets_in;
}

static __always_inline void count(__u32 at, const struct info *in, int out)
{
	struct counter *n = bpf_map_lookup_elem(&counters, &at);

	if (!n)
		return;
	if (out) {
		__sync_fetch_and_add(&n->packets_out, in->segs);
		__sync_fetch_and_add(&n->octets_out, in->octets);
	} else {
		__sync_fetch_and_add(&n->packets_in, in->segs);
		__sync_fetch_and_add(&n->octets_in, in->octets);
	}
}

/* optimized: only the daemon knows where packets from one of this router's addresses to another go. */
static __always_inline int optimized(const struct control *c, const struct info *in)
{
	struct pair p = { in->src, in->dst };

	if (in->is4 || !c->pairs)
		return 0;
	return c->pairs == ANY_PAIR || bpf_map_lookup_elem(&pairs, &p);
}

#define TALK 1000000ULL /* ns between two words about new pairs, in one direction */

/*
 * tell says whom a node's home address exchanges packets with in the tunnel: about once a second of each pair, and of so many pairs that
 * strangers cannot make much work. Where two pairs meet changes every second. No packet goes another way for it.
 */
static __always_inline void tell(const struct control *c, __u64 now, struct addr own, struct addr other, __u32 in)
{
	__u32 age = now >> 30, i;
	struct talk t = {};
	__u32 *last;
	__u64 *b, next;

	i = mix(mix(mix(mix(mix(c->seed ^ age) ^ own.hi) ^ own.lo) ^ other.hi) ^ other.lo ^ in) >> 20 & (TALKS - 1);
	last = bpf_map_lookup_elem(&talked, &i);
	if (!last || *last == age + 1)
		return;
	*last = age + 1; /* 0 is never */
	b = bpf_map_lookup_elem(&budget, &in);
	if (!b)
		return;
	next = *b > now ? *b : now;
	if (next + TALK > now + BURST)
		return;
	*b = next + TALK;
	t.p.own = own;
	t.p.other = other;
	t.in = in;
	bpf_ringbuf_output(&talks, &t, sizeof(t), 0);
}

#endif
