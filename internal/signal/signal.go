// Package signal turns whole packets of signalling into Mobility Header messages and back: Home Address option and type 2
// routing header (RFC 6275 6.3, 6.4), ESP and its policy (RFC 4877), authentication by mobility options (RFC 4285), and the rules
// for what may come in IPv6, IPv4 and UDP (RFC 5555, draft-soliman-v4v6-mipv6). It stands between the sockets and the machines, in
// the daemon as in the simulator:
//
//	Codec  one packet in or out; no I/O, no clock
//	Port   a core.Port of kind "mh" over two of kind "ip": the host's own packets, and those of the data plane's tunnels
//	Host   a core.Host whose Open("mh") gives such a Port
//
// The checksum of a Mobility Header is neither computed nor checked here: that is its parser's, with the home addresses in the
// pseudo header (RFC 6275 6.1.1). Nothing here limits rates either; who answers does.
//
// A Codec may be used by several goroutines. A Port has one reader and any number of writers.
package signal
