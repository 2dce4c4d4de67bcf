// Package peer is the correspondent node of Mobile IPv6 (RFC 6275 5.2 and 9): it lets mobile nodes prove by return routability that
// their home address and their care-of address are theirs, keeps a cache of bindings, and has the data plane send and take packets
// straight to and from the care-of address.
//
//	nonce.go    node keys and nonces: the only thing behind a keygen token. Nothing is kept of who asked for one
//	test.go     Home and Care-of Test Init, and their answers
//	update.go   Binding Updates: what is checked, in which order, and what each is answered
//	cache.go    the binding cache, and who makes room when it is full
//	refresh.go  lifetimes: Binding Refresh Requests for bindings in use, and the end
//	route.go    how the host's own packets get to the data plane
//	error.go    Binding Errors
//	stop.go     how it ends without a lost packet
//	unreachable.go  ICMPv6 errors that end a binding
//
// Supported: RFC 6275 5.2, 6.1.2 to 6.1.9, 9.1 to 9.6. Left out: authorization by other means than return
// routability (RFC 4449), and ESP and AH behind a Home Address option that is not bound (9.3.1, a SHOULD): it would let anybody have
// this host answer to whatever address he likes.
//
// Nothing is durable. Who ends a correspondent (core.Stop) has mobile nodes told. After a crash keys and nonces are others and all bindings are gone: mobile nodes learn it by a Binding Error
// as soon as they send data, and begin anew (5.2.9).
//
// A mobile node that is a correspondent as well holds a Machine as a sub-machine, with Config.Forward: it makes the sessions then.
package peer
