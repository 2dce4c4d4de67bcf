// Package node is the mobile node (RFC 6275 section 11, RFC 5555 section 4, draft-soliman-v4v6-mipv6-00): a host that keeps
// its IPv4 and IPv6 home addresses while it moves through IPv6, IPv4 and NATed networks by itself.
//
// The Machine registers the best care-of address of package movement with one home agent, keeps the Binding Update List,
// chooses between IPv6 and IPv4, finds out by echoes through the tunnel whether a path still works, returns home, and decides
// how the host's addresses, rules and routes have to be. Like every machine it has no I/O, lock, goroutine or clock.
//
// What it decides by itself, where the documents leave room or it deviates from them:
//
//   - Families. RFC 5555 4.4.1 sends three Binding Updates over IPv6 (7.5 s) before it tries IPv4. Here IPv4 begins after
//     Timers.FamilyFallback. Every Binding Update has a number of its own, so the home agent holds what the one with the
//     greatest number said; see register.go for why node and home agent end with the same view.
//   - Framing. After a Binding Acknowledgement that saw no NAT, data goes in plain protocol 4 or 41 at once, and echoes
//     verify in parallel that this works; else the node registers again with the F flag.
//   - Lost answers. Echoes follow a Binding Update that is not acknowledged while no tunnel works; one that comes back shows
//     that the home agent took it, and begins its back-off anew (RFC 6275 11.8), a few times at most; see ask.go.
//   - Dead paths. An echo every third of Timers.DeadPath, repeated quickly when it stays unanswered.
//   - Home agents. One that was discovered is left when it refuses for reasons of its own, or leaves three Binding Updates in 10 s
//     without an answer (a minute while its tunnel answers); see discover.go.
//   - Renumbering. A new home address is registered beside the old one, and preferred when that is acknowledged; see renumber.go.
package node
