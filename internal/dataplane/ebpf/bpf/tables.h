/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * Tables that the daemon fills and the programs read. Records of arrays are written through shared memory, field by field in an
 * order that keeps every state between two writes a valid one; index 0 of sessions and tunnels is "none". Addresses are in
 * network order, those of IPv4 mapped to ::ffff:0:0/96; so a prefix length of IPv4 counts from 96.
 */
#ifndef KEDGE_TABLES_H
#define KEDGE_TABLES_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#define MAX_LENGTHS 8 /* different prefix lengths in use, of each family */

enum role { ANCHOR, GATEWAY, NODE };

/* reason of a drop, as in reasons.go */
enum reason { UNKNOWN_HOME, UNKNOWN_HOST, WRONG_SOURCE, WRONG_TUNNEL, DEPRECATED, REASONS };

struct addr {
	__u64 hi, lo;
};

struct length {
	__u32 bits, pad;
	struct addr mask;
};

struct control {
	__u64 alive_until; /* ns of the clock: afterwards nobody answers for this state, and everything is left to the kernel */
	__u64 fake_now;    /* clock of tests */
	__u64 seed;        /* of hashes over what strangers send */
	__u64 join_until;  /* ns of the clock: afterwards nobody looks whether the joiner is still there */
	__u32 tun;         /* interface index of the daemon's device, 0 = none */
	__u32 peers_mask;
	__u32 n4, n6;
	__u32 partial; /* there is more than is held here: strangers are the daemon's business */
	__u32 gre;     /* sessions in GRE: without any, GRE is of others on this host */
	__u32 through; /* what an anchor forwards goes through the kernel, as the daemon's packets do */
	__u32 news;    /* another number after each change of routes, neighbours, links, addresses and rules */
	__u32 nested;  /* there were sessions that only the daemon carries: what is in a tunnel for this router may be a tunnel */
	__u32 bridged; /* sessions in bridged mode */
	__u32 pairs;   /* enum pairs */
	__u32 join;    /* interface index of the joiner, 0 = none */
	struct length four[MAX_LENGTHS], six[MAX_LENGTHS]; /* longest first */
};

struct key {
	__u32 domain, bits;
	struct addr addr; /* masked */
};

/* pairs says whether packets between two addresses may be the daemon's, because there is route optimization between them */
enum pairs { NO_PAIRS, SOME_PAIRS, ANY_PAIR };

#define KEY_MANY 1 /* several sessions may send from the key: the daemon decides */
#define KEY_ASK 2  /* a session of the key is not held here: the daemon decides */
#define KEY_SILENT 4 /* nobody may send from it; up is one that has it */

struct where {
	__u32 down, up; /* sessions: who delivers to the key, and who may send from it */
	__u32 check;    /* of the address: a deleted element may hold another key already while somebody reads it */
	__u32 flags;
};

#define IN_GRE (1u << 31) /* packets in a tunnel have a GRE header; keys are in network order, 0 = none */

#define BRIDGED 4 /* all that comes from the host is sent, all that comes in the tunnel is the host's, as it is */

struct session {
	__u64 id;
	__u64 until;           /* ns of the clock: so long prev is let in */
	__u64 way;             /* tunnel, with IN_GRE; above it the GRE key of what is sent. 0 = none: the session ends */
	__u32 prev;            /* tunnel, with IN_GRE */
	__u32 key, prev_key;   /* of GRE that is taken */
	__u16 twin, prev_twin; /* port, network order: over IPv4, UDP from there is let in beside plain */
	__u16 mtu;             /* of the path as configured, 0 = the tunnel's */
	__u16 link;            /* access link, 0 = none */
	__u8 mac[6];           /* of the host there */
	__u8 flags;            /* of the daemon's, but BRIDGED */
	__u8 pad[5];           /* to 64, so that it is one line of the cache */
};

struct access_link {
	__u32 ifindex; /* 0 = it is not there */
	__u32 mtu;
	__u8 mac[6]; /* this router's */
	__u8 pad[2];
};

/* kind of a tunnel: what is between its outer IP header and the inner packet. GRE is a session's, in a plain one */
enum kind { PLAIN, UDP, GRE };

struct tunnel {
	struct addr local, remote;
	__u16 kind;          /* enum kind */
	__u16 rport;         /* of UDP, network order */
	__u16 mtu;          /* of the route to remote, 0 = unknown: the daemon decides */
	__u16 learned;      /* from ICMP errors */
	__u32 learned_until; /* s of the clock */
	__u32 ids;           /* Identifications given */
	__u64 secret;        /* of Identifications of packets that nobody may fragment */
	__u64 whole;         /* ns of the clock: when it brought a super packet last */
};

struct host {
	__u16 link;
	__u8 mac[6];
};

/* What arrives in a tunnel. */
struct frame {
	struct addr local, remote;
	__u16 kind, rport; /* as of a tunnel, or GRE */
	__u32 key;         /* of GRE */
};

/* What a processor knows of the way to a tunnel's other end. */
struct hop {
	__u64 secret; /* of the tunnel: its name */
	__u64 until;  /* ns of the clock: a word that got lost does harm no longer */
	__u32 news;
	__u32 tos;
	struct bpf_fib_lookup f;
};

/* Who exchanges packets: one of this router's addresses, and another. */
struct pair {
	struct addr own, other;
};

/* What a node tells the daemon of packets in its tunnel. */
struct talk {
	struct pair p;
	__u32 in, pad;
};

struct counter {
	__u64 packets_in, octets_in, packets_out, octets_out;
};

#define MAP(name_, type_, entries, key_t, value_t, flags)                                                                              \
	struct {                                                                                                                       \
		__uint(type, type_);                                                                                                   \
		__uint(max_entries, entries);                                                                                          \
		__uint(map_flags, flags);                                                                                              \
		__type(key, key_t);                                                                                                    \
		__type(value, value_t);                                                                                                \
	} name_ SEC(".maps")

#define LINKS 256   /* access links, with 0 */
#define HOPS 1024   /* tunnels that a processor remembers the way of, a power of 2; behind them is a place to work */
#define ASKED 256  /* neighbours that a processor tells apart, a power of 2 */
#define LIMITS 4096 /* buckets of the limiter, a power of 2 */

#define TALKS 4096 /* pairs that are told apart, a power of 2 */

/* The sizes that the daemon changes are 1 here. */
MAP(control, BPF_MAP_TYPE_ARRAY, 1, __u32, struct control, BPF_F_MMAPABLE);
MAP(keys, BPF_MAP_TYPE_HASH, 1, struct key, struct where, BPF_F_NO_PREALLOC);
MAP(sessions, BPF_MAP_TYPE_ARRAY, 1, __u32, struct session, BPF_F_MMAPABLE);
MAP(tunnels, BPF_MAP_TYPE_ARRAY, 1, __u32, struct tunnel, BPF_F_MMAPABLE);
MAP(access_links, BPF_MAP_TYPE_ARRAY, LINKS, __u32, struct access_link, BPF_F_MMAPABLE);
MAP(counters, BPF_MAP_TYPE_ARRAY, 1, __u32, struct counter, BPF_F_MMAPABLE);
MAP(peers, BPF_MAP_TYPE_ARRAY, 1, __u32, __u64, BPF_F_MMAPABLE); /* sessions in tuples of a hash: 0 = none knows the tuple */
MAP(hosts, BPF_MAP_TYPE_HASH, 1, struct host, __u32, BPF_F_NO_PREALLOC); /* on access links: those that sessions are of; the one in bridged mode */
MAP(bridges, BPF_MAP_TYPE_HASH, 1, struct frame, __u32, BPF_F_NO_PREALLOC); /* sessions in bridged mode */
MAP(locals, BPF_MAP_TYPE_HASH, 64, struct addr, __u8, 0);        /* addresses of this router, a node's those of its tunnels */
MAP(limits, BPF_MAP_TYPE_ARRAY, LIMITS, __u32, __u64, 0);
MAP(hops, BPF_MAP_TYPE_PERCPU_ARRAY, HOPS + 1, __u32, struct hop, 0);
MAP(asked, BPF_MAP_TYPE_PERCPU_ARRAY, ASKED, __u32, __u64, 0); /* ns of the clock: when the kernel is to hear of a neighbour again */
MAP(pairs, BPF_MAP_TYPE_HASH, 1, struct pair, __u8, BPF_F_NO_PREALLOC); /* of route optimization */
MAP(talked, BPF_MAP_TYPE_ARRAY, TALKS, __u32, __u32, 0); /* when the daemon was told of a pair last */
MAP(budget, BPF_MAP_TYPE_ARRAY, 2, __u32, __u64, 0); /* of what it is told, out and in */
MAP(drops, BPF_MAP_TYPE_PERCPU_ARRAY, REASONS, __u32, __u64, 0);

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} talks SEC(".maps");

/* Set when the programs are loaded. */
const volatile __u8 role;
const volatile __u32 domain;
const volatile __u8 fake_clock;
const volatile __u8 local_routing;
const volatile __u8 talking;       /* a node tells the daemon whom it exchanges packets with */
const volatile __u8 no_v6_outer;   /* outer IPv6 packets have an option: the daemon makes them */
const volatile __u8 cross;         /* the kernel can change the family of a packet that leaves a tunnel */

#endif
