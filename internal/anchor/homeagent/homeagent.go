// Package homeagent holds the rules and the state of host registrations: nodes that register by themselves. How a Binding
// Update is read whatever it came in (Read), whether it is in order (InOrder), what its IPv4 home address options ask for
// (V4Ask), how the answer is made (Answer); the registrations with their home keys and deadlines (Table) and as stored
// (Registration.Encode); and what a real home link needs of a home agent (Link).
//
// Supported: RFC 6275 9.5 and 10.1 to 10.4.1, RFC 5555 3 to 5 without IKE, RFC 4285 6, and draft-soliman-v4v6-mipv6-00,
// which carries signalling in protocol 41 with IPv4-mapped care-of addresses, and RFC 3963 4 and 6: mobile networks, of IPv4 by RFC
// 5555 3.1.1. What is left out: routing protocols in tunnels (RFC 3963 8), multiple care-of addresses (RFC 5648), multicast (10.4.3). Discovery and prefixes (10.5, 10.6) are package homelist's.
//
// Package anchor joins this with pools, subscribers, the store and forwarding. One goroutine uses a Table or a Link.
package homeagent

// Dialect is a family of formats of DSMIPv6 signalling. A registration is answered in the one it came in.
type Dialect uint8

const (
	NoDialect Dialect = iota
	RFC5555           // UDP port 4191 over IPv4, IPv4 home address options of six octets
	Soliman00         // draft-soliman-v4v6-mipv6-00: protocol 41 over IPv4, short options
)

// String is the dialect's name in the config.
func (d Dialect) String() string {
	switch d {
	case RFC5555:
		return "rfc5555"
	case Soliman00:
		return "draft-soliman-00"
	}
	return "none"
}

// Dialects is a set of Dialect.
type Dialects uint8

// Has says whether the set holds d.
func (s Dialects) Has(d Dialect) bool { return s&(1<<d) != 0 }

// DialectSet makes a set; of nothing it makes RFC5555, because nobody speaks the draft unless told to.
func DialectSet(ds ...Dialect) (s Dialects) {
	for _, d := range ds {
		s |= 1 << d
	}
	if s == 0 {
		s = 1 << RFC5555
	}
	return s
}
