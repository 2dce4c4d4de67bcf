// Package optimize is the mobile node's side of route optimization (RFC 6275 5.2, 11.3, 11.6 to 11.8): it tells correspondents
// where the node is, so that data goes directly and not through the home agent. Machine is a sub-machine of package node: it
// takes events from it, gives effects, and has no I/O, lock, goroutine or clock. It keeps the part of the Binding Update List
// that is about correspondents, an entry each.
//
// How no packet is lost, though both ends never switch at the same moment:
//
//   - What the correspondent sends to a care-of address is let in from before the Binding Update leaves that tells it of the
//     address, until the binding that it may hold has ended, whatever was heard of it. What comes through the home agent is let in
//     at any time.
//   - Data leaves directly only when an acknowledgement has said that the correspondent holds the care-of address: without a
//     binding it drops what has a Home Address option (9.3.1). So every Binding Update has the A flag.
//   - While a Binding Update for another care-of address is under way, nobody knows which of both the correspondent holds; data
//     goes through the home agent then, as it does after every fall-back.
//
// What it decides by itself, where RFC 6275 leaves room:
//
//   - Tokens. The home keygen token of a correspondent in use is renewed before it ends (MAX_TOKEN_LIFETIME), so that a move costs
//     the care-of test only (5.2.7). That renewal is no sign of failure when it stays unanswered: it goes on in the rhythm of
//     MAX_BINDACK_TIMEOUT, and what fails is the registration that needs the token.
//   - Failure. After MAX_RO_FAILURE retransmissions without answer, or a refusal, data goes through the home agent and the
//     correspondent has its peace for a while, doubled each time. Another network ends the wait for an answer, not that for a
//     refusal.
//   - Silence. A Binding Update has the Home Address option and its answer the type 2 routing header, so where both pass data does.
//     When a session sends and nothing comes back, one is sent to see (TestSilentPath); without an answer at once data goes
//     through the home agent while another follows. Where the correspondent itself sends through the home agent, data does so before
//     there is an answer.
//   - A dead direct path. A correspondent goes on sending to what it holds, for minutes. So where two Binding Updates stay without
//     answer, or in another network the first Care-of Test Init, its binding is deleted as in an IPv4-only network, through the tunnel.
//   - An IPv4-only network. There is no route optimization (RFC 5555 2.4), and the correspondent would go on sending to an address
//     that the node does not have any more. So the binding is deleted, from the home address through the tunnel: 9.5.1 takes the
//     home address from the source then, and authorizes by the home keygen token alone. Nothing is optimized by that.
//   - Traffic. An entry whose session carried nothing for Idle is not renewed, and ends when its binding does.
//
// Limits: Config.Limit entries, those without a binding go first; MAX_UPDATE_RATE messages of a type a second to a correspondent;
// test messages and new entries a second to all of them together.
package optimize
