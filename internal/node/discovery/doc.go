// Package discovery is what a mobile node finds out about its home network while it is away (RFC 6275 11.4): which home
// agents there are, and which prefixes.
//
// Agents is the list of home agents (RFC 6275 11.4.1). It comes from the config, from Dynamic Home Agent Address Discovery, from
// name servers (RFC 5555 2.1) or from a home agent that wants to be left (RFC 5142), and is tried in order. Prefixes is Mobile
// Prefix Discovery (RFC 6275 11.4.2, 11.4.3): the lifetimes of home addresses, and what takes the place of one that ends.
//
// Both are sub-machines of package node, called directly: without I/O, clock, lock or effects. They say when they want to be
// looked at (Deadline) and what should be sent (Due); the node knows from where and by what way.
//
// What is decided here, where the RFCs leave room:
//
//   - An answer with an empty list is none. Neither is an address that cannot be a home agent's, or that the node has no
//     security association for: nothing protects these answers, so they lead only to whom the node would trust anyway.
//   - A home agent that serves is kept, whatever a later answer says; the list counts when that one fails.
//   - When the whole list has failed, discovery begins anew, and the list too: nothing ever waits for discovery alone.
//
// Left out: home addresses by stateful configuration, as RFC 6275 11.4.3 does, and service records in DNS (RFC 5026).
package discovery
