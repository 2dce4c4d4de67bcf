package homeagent

import (
	"net/netip"

	"kedge/internal/core"
	"kedge/wire"
	"kedge/wire/mobility"
)

// Framing is what a Binding Update came in, and its answer goes back in.
type Framing uint8

const (
	Native  Framing = iota // IPv6, with a Home Address option unless the node is at home
	UDP                    // IPv6 in UDP in IPv4, RFC 5555 4.2
	Proto41                // IPv6 in IPv4, with an IPv4-mapped care-of address: draft-soliman-v4v6-mipv6 2.2.2
)

// Refusal is why a request is not accepted.
type Refusal struct {
	Status mobility.Status
	Reason wire.Reason
	Detail string
	Silent bool // no answer: RFC 6275 9.5.1
	// Sequence is answered instead of the request's with status 135.
	Sequence uint16
	// MessageID is the answer's option of RFC 4285 6 with status 144.
	MessageID uint64
}

// Router says whether the request is a mobile router's (flag R, RFC 3963 4.1).
func (r *Request) Router() bool { return r.Flags&mobility.BURouter != 0 }

func silent(r wire.Reason, detail string) *Refusal {
	return &Refusal{Silent: true, Reason: r, Detail: detail}
}

// Rules are what the config says about requests.
type Rules struct {
	Dialects      Dialects
	PrivateCareOf bool // care-of addresses of RFC 1918 in protocol 41
}

// Request is a Binding Update as the rules see it.
type Request struct {
	Path     core.Path
	Sequence uint16
	Lifetime uint16 // units of 4 s
	Flags    mobility.BUFlags
	Home     netip.Addr // IPv6 home address
	Framing  Framing
	Dialect  Dialect
	// Delete: it ends the registration. Lifetime 0, or the care-of address is the home address (RFC 3775 9.5.1, RFC 3963 6.2).
	Delete bool
	// CareOf is where packets shall be tunnelled to: in UDP what is seen of it, with Port. Unset in a request to delete.
	CareOf netip.Addr
	Port   uint16
	NAT    bool // the node knows another IPv4 care-of address than is seen (RFC 5555 4.5)
	// Bare: the care-of address is nothing but the source of a native packet, which ESP in transport mode does not cover.
	Bare bool

	V4 []mobility.IPv4HomeAddress
	// Networks are what the Mobile Network Prefix options name; Explicit: there are some (RFC 3963 5.2). BadNetwork: one is no
	// prefix that anybody could have.
	Networks             []netip.Prefix
	Explicit, BadNetwork bool

	NonceIndices bool
	HasMessageID bool
	MessageID    uint64
}

// Read tells what a Binding Update asks for, whatever it came in, and holds its headers and care-of addresses against each
// other. Its refusals are all silent (RFC 6275 6.1.7, 9.5.1); the request beside one tells what is known.
func Read(path core.Path, bu *mobility.BindingUpdate, rules *Rules) (Request, *Refusal) {
	r := Request{Path: path, Sequence: bu.Sequence, Lifetime: bu.Lifetime, Flags: bu.Flags, Delete: bu.Lifetime == 0, Dialect: RFC5555}
	refusal := r.headers(rules)
	if refusal != nil {
		return r, refusal
	}
	if !routable6(r.Home) {
		return r, silent(wire.BadHomeAddress, r.Home.String())
	}
	o := bu.Options
	r.NonceIndices = o.Has(mobility.OptNonceIndices)
	if id, ok := o.MessageID(); ok {
		r.HasMessageID, r.MessageID = true, id.Timestamp
	}
	r.addresses(o, rules)
	r.readNetworks(o)
	return r, r.careOf(o, rules)
}

// headers is the table of notes (a): which addresses stand where says which dialect it is.
func (r *Request) headers(rules *Rules) *Refusal {
	p, l := &r.Path, &r.Path.Outer.Layer[0]
	src, hao := p.Remote.Addr(), p.Home
	switch {
	case !src.Is6() || src.IsMulticast() || src.IsUnspecified() || src.IsLoopback():
		return silent(wire.BadSource, src.String())
	case p.Outer.N == 0:
		if src.Is4In6() {
			return silent(wire.MappedMismatch, "natively")
		}
		r.Framing, r.Home = Native, src
		if hao.IsValid() {
			r.Home = hao
		}
	case p.Outer.N > 1 || l.TLV != 0 || l.GRE || !l.Remote.Addr().Is4() || !l.Local.Addr().Is4():
		return silent(wire.NotSignalling, "in headers that no dialect has")
	case l.Remote.Port() != 0 || l.Local.Port() != 0:
		r.Framing, r.Home = UDP, src
		switch {
		case l.Remote.Port() == 0: // no port: nothing could be sent there
			return silent(wire.BadSource, l.Remote.String())
		case hao.IsValid():
			return silent(wire.HomeInUDP, hao.String())
		case src.Is4In6():
			return silent(wire.MappedInUDP, src.String())
		case !rules.Dialects.Has(RFC5555):
			return silent(wire.DialectDisabled, RFC5555.String())
		}
	case !src.Is4In6():
		return silent(wire.UpdateInTunnel, src.String())
	case src.Unmap() != l.Remote.Addr():
		return silent(wire.MappedMismatch, src.String()+" in a packet from "+l.Remote.Addr().String())
	case !hao.IsValid():
		return silent(wire.MissingHome, src.String())
	case !rules.Dialects.Has(Soliman00):
		return silent(wire.DialectDisabled, Soliman00.String())
	default:
		r.Framing, r.Home, r.Dialect = Proto41, hao, Soliman00
	}
	return nil
}

// addresses reads the IPv4 home address options. Natively their length tells the dialect; the layout of one that is not
// allowed is unknown here, and its option skipped (RFC 6275 6.1.7).
func (r *Request) addresses(o mobility.Options, rules *Rules) {
	for v := range o.IPv4HomeAddresses() {
		d := RFC5555
		if v.Short != 0 {
			d = Soliman00
		}
		if !rules.Dialects.Has(d) {
			continue
		}
		if r.Framing == Native && len(r.V4) == 0 {
			r.Dialect = d
		}
		r.V4 = append(r.V4, v)
	}
}

// careOf finds the care-of address (RFC 6275 9.5.1, RFC 5555 4.5, draft-soliman-v4v6-mipv6 3.3) and refuses what is none.
func (r *Request) careOf(o mobility.Options, rules *Rules) *Refusal {
	src, l := r.Path.Remote.Addr(), &r.Path.Outer.Layer[0]
	alt, hasAlt := o.AlternateCareOf()
	switch r.Framing {
	case Native:
		coa := src
		if hasAlt {
			coa = alt.Addr
		}
		if coa == r.Home {
			r.Delete = true
		}
		switch {
		case r.Delete:
			return nil
		case !r.Path.Home.IsValid():
			return silent(wire.MissingHome, "care-of address "+coa.String()) // 10.3.1
		case !routable6(coa):
			return silent(wire.BadCareOf, coa.String())
		}
		r.CareOf, r.Bare = coa, !hasAlt
	case UDP:
		seen := l.Remote.Addr()
		r.Port = l.Remote.Port()
		own, has := o.IPv4CareOf()
		r.NAT = has && own.Addr != seen
		switch {
		case !routable4(seen):
			return silent(wire.BadCareOf, seen.String())
		case r.Delete:
			return nil
		case !has:
			return silent(wire.MissingCareOf, "from "+seen.String())
		case !routable4(own.Addr):
			return silent(wire.BadCareOf, own.Addr.String())
		case hasAlt && alt.Addr != r.Home && alt.Addr != mapped(own.Addr):
			return silent(wire.CareOfMismatch, alt.Addr.String()+" besides "+own.Addr.String())
		}
		r.CareOf = seen
	case Proto41:
		seen := l.Remote.Addr()
		switch {
		case !routable4(seen):
			return silent(wire.BadCareOf, seen.String())
		case r.Delete:
			return nil
		case hasAlt && alt.Addr != src:
			// ESP in transport mode covers the option and not the source: where they disagree, somebody wrote another source
			// (notes 22 and 24).
			return silent(wire.CareOfMismatch, alt.Addr.String()+" in a packet from "+src.String())
		case seen.IsPrivate() && !rules.PrivateCareOf:
			return silent(wire.BadCareOf, seen.String()+" in protocol 41, which no NAT lets through")
		}
		r.CareOf = seen
	}
	return nil
}

func mapped(a netip.Addr) netip.Addr { return netip.AddrFrom16(a.As16()) }

// routable6 says whether a can be a home or care-of address, RFC 6275 6.1.7: unicast, and routable.
func routable6(a netip.Addr) bool {
	return a.Is6() && !a.Is4In6() && a.IsGlobalUnicast() && a.Zone() == ""
}

// routable4 is the same for IPv4. 0/8 is this network, 240/4 reserved (RFC 1122 3.2.1.3).
func routable4(a netip.Addr) bool {
	if !a.Is4() || !a.IsGlobalUnicast() {
		return false
	}
	first := a.As4()[0]
	return first != 0 && first != 127 && first < 224
}
