// Package gateway is the mobile access gateway (MAG): it notices hosts on access links, registers them with an anchor on
// their behalf and makes the access link look like their home.
//
// RFC 5213 section 6 and 9.2; RFC 5844 3.2 and 3.4 (DHCP server mode); draft-ietf-netlmm-pmip6-ipv4-support-02 3.1-3.2 as
// a second dialect; RFC 4283 (identifiers), RFC 5846 (revocation, of one session at a time), RFC 5847 (heartbeats, in
// package heartbeat), RFC 6275 11.8 (back-off), RFC 6543 (fixed router addresses, in package access). Left out: signalling
// over IPv4 and through NAT, DHCP relay (an anchor that wants it is reported), multicast.
//
// One Machine holds everything: one access.HomeLink for each access link, the Binding Update List, one heartbeat.Monitor.
// It has no I/O, no clock and no lock; the goroutine that calls Handle owns it. Times are boot time but for the Timestamp
// option and what users see.
//
// The life of an entry of the Binding Update List (type entry):
//
//	idle ──> registering ──> active <──> refreshing
//	  ^        │   ^           │             │
//	  │        v   │           v             v
//	  └────── refused <────────┴─────────────┤
//	                                         v
//	        gone <── deregistering <── (a host leaves: from any state)
//	        gone <── (an anchor revokes a session: from any state)
//
// Bound sessions, and those that are being deregistered, are in the store (record.go). They outlive the process: a restart
// forwards at once what it finds there (restore.go), asks the hosts whether they are still there, and refreshes.
//
// How the code is spread: attach.go and presence.go say which hosts are there, update.go builds requests and answer.go
// judges what comes back, apply.go makes it work on the link and in forwarding, dialect.go knows the two formats of IPv4
// options, anchor.go watches the anchors, revoke.go obeys them, command.go answers people.
package gateway
