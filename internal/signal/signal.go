// Package signal turns whole packets of signalling into Mobility Header messages and back: Home Address option and type 2
// routing header (RFC 6275 6.3, 6.4), ESP and its policy, authentication by mobility options (RFC 4285), and encapsulation in
// IPv6, IPv4 and UDP (RFC 5555). It stands between the sockets and the machines, in the daemon as in the simulator.
package signal
