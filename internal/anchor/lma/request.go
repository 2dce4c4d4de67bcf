package lma

import (
	"net/netip"

	"kedge/wire/mobility"
)

// Dialects is a set of Dialect.
type Dialects uint8

// Has says whether the set holds d.
func (s Dialects) Has(d Dialect) bool { return s&(1<<d) != 0 }

// DialectSet makes a set; of nothing it makes both.
func DialectSet(ds ...Dialect) (s Dialects) {
	for _, d := range ds {
		s |= 1 << d
	}
	if s == 0 {
		s = 1<<RFC5844 | 1<<Draft02
	}
	return s
}

// Request is a Proxy Binding Update as the rules see it. Byte slices alias the message.
type Request struct {
	Sequence uint16
	Lifetime uint16 // units of 4 s; 0 deregisters
	Flags    mobility.BUFlags
	Source   netip.Addr
	CareOf   netip.Addr // Alternate Care-of Address option, else Source

	HasNode bool // and the identifier is not empty
	Subtype uint8
	Node    string

	Prefixes   [maxPrefixes]netip.Prefix // the NON_ZERO ones of the Home Network Prefix options
	NonZero    int                       // how many of Prefixes
	HNPOptions int                       // how many options, ALL_ZERO ones included
	AllZero    bool                      // an option asks for a prefix of the anchor's choice
	TooMany    bool                      // more NON_ZERO prefixes than Prefixes holds

	Dialect   Dialect
	V4Options int        // how many IPv4 home address options of the dialect
	V4        netip.Addr // 0.0.0.0 = allocate
	V4Bits    uint8

	HasHI, HasATT bool
	HI, ATT       uint8

	HasLinkLayer bool // the option is there
	LinkLayer    []byte

	HasTimestamp bool
	Timestamp    uint64

	HasLinkLocal bool
	LinkLocal    netip.Addr // :: asks for one

	options mobility.Options
}

// maxPrefixes is how many prefixes a request can ask for; sessions have no more (binding.MaxPrefixes).
const maxPrefixes = 8

// Read takes out of a Proxy Binding Update what the rules need. A dialect that is not allowed is not seen: its option is
// unknown and skipped (RFC 5213 8.1), so that a request with nothing else gets status 158 and its sender can try the
// other. With both dialects in a message the final RFC is answered.
func Read(bu *mobility.BindingUpdate, source netip.Addr, allowed Dialects) (r Request) {
	o := bu.Options
	r.options = o
	r.Sequence, r.Lifetime, r.Flags, r.Source, r.CareOf = bu.Sequence, bu.Lifetime, bu.Flags, source, source
	if alt, ok := o.AlternateCareOf(); ok {
		r.CareOf = alt.Addr
	}
	if id, ok := o.MobileNodeID(); ok {
		r.HasNode, r.Subtype, r.Node = id.ID != "", id.Subtype, id.ID
	}
	for p := range o.HomeNetworkPrefixes() {
		r.HNPOptions++
		if p.Addr().IsUnspecified() {
			r.AllZero = true
			continue
		}
		if r.NonZero == len(r.Prefixes) {
			r.TooMany = true
			continue
		}
		r.Prefixes[r.NonZero] = p.Masked()
		r.NonZero++
	}
	if v, ok := o.IPv4HomeAddressRequest(); ok && allowed.Has(RFC5844) {
		r.Dialect, r.V4, r.V4Bits, r.V4Options = RFC5844, v.Addr, v.PrefixLen, o.Count(mobility.OptIPv4HomeAddressRequest)
	} else if v, ok := o.IPv4HomeAddress(); ok && allowed.Has(Draft02) {
		r.Dialect, r.V4, r.V4Bits, r.V4Options = Draft02, v.Addr, v.PrefixLen, o.Count(mobility.OptIPv4HomeAddress)
	}
	if v, ok := o.HandoffIndicator(); ok {
		r.HasHI, r.HI = true, v.Value
	}
	if v, ok := o.AccessTechnology(); ok {
		r.HasATT, r.ATT = true, v.Value
	}
	if v, ok := o.LinkLayerID(); ok {
		r.HasLinkLayer, r.LinkLayer = true, v.ID
	}
	if v, ok := o.Timestamp(); ok {
		r.HasTimestamp, r.Timestamp = true, v.Value
	}
	if v, ok := o.LinkLocalAddress(); ok {
		r.HasLinkLocal, r.LinkLocal = true, v.Addr
	}
	return r
}

// HasV4 says that the request has an IPv4 home address option.
func (r *Request) HasV4() bool { return r.V4Options > 0 }

// Asked is the handoff indicator that the existence test uses. The draft's figures have none: then it is unknown.
func (r *Request) Asked() uint8 {
	if !r.HasHI && r.Dialect == Draft02 {
		return mobility.HandoffUnknown
	}
	return r.HI
}

// Interface is the link-layer identifier of the existence test: nil when the option is absent or ALL_ZERO, which is how
// an entry without one looks (RFC 5213 5.1).
func (r *Request) Interface() []byte {
	for _, b := range r.LinkLayer {
		if b != 0 {
			return r.LinkLayer
		}
	}
	return nil
}

// V4Key is the IPv4 address of the request when it names exactly one; 0.0.0.0 and a network asked to allocate from
// (notes B17) are none.
func (r *Request) V4Key() (netip.Addr, bool) {
	if !r.HasV4() || r.V4.IsUnspecified() || r.asksNetwork() {
		return netip.Addr{}, false
	}
	return r.V4, true
}

// V4Network is the range that an address shall be allocated from: everything for 0.0.0.0, the network for a network
// address with a length below 32.
func (r *Request) V4Network() (netip.Prefix, bool) {
	switch {
	case !r.HasV4():
		return netip.Prefix{}, false
	case r.V4.IsUnspecified():
		return netip.PrefixFrom(r.V4, 0), true
	case r.asksNetwork():
		return netip.PrefixFrom(r.V4, int(r.V4Bits)), true
	}
	return netip.Prefix{}, false
}

func (r *Request) asksNetwork() bool {
	if r.V4Bits == 0 || r.V4Bits >= 31 { // of a /31 both are hosts (RFC 3021)
		return false
	}
	p := netip.PrefixFrom(r.V4, int(r.V4Bits))
	return p == p.Masked()
}
