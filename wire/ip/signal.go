package ip

import (
	"net/netip"

	"kedge/wire"
)

// Signal is what the headers of an IPv6 packet of signalling say: how it travelled, for whom, and where its upper layer begins.
type Signal struct {
	Src, Dst netip.Addr // of the IPv6 header, as on the wire
	SrcHome  netip.Addr // of a Home Address option (RFC 6275 6.3); invalid = none
	DstHome  netip.Addr // of a type 2 routing header (RFC 6275 6.4); invalid = none
	Proto    uint8      // upper layer, ESP and AH included; what a Fragment header says for a fragment
	Off      int        // its first octet
	Len      int        // octets of the packet, as its header says
	Fragment bool       // it is a fragment: reassemble it first. Only what lies before the Fragment header is known
}

// Ends are the addresses that upper layers see: home addresses stand for care-of addresses (RFC 6275 9.3.1, 11.3.3), also in the
// checksum's pseudo header (RFC 6275 6.1.1).
func (s *Signal) Ends() (src, dst netip.Addr) {
	src, dst = s.Src, s.Dst
	if s.SrcHome.IsValid() {
		src = s.SrcHome
	}
	if s.DstHome.IsValid() {
		dst = s.DstHome
	}
	return src, dst
}

// Signalling reports whether a packet, of which ParseSignal read s, carries a message of mobility in the clear: a Mobility Header, or a
// Mobile Prefix Solicitation or Advertisement (RFC 6275 6.7, 6.8).
func (s *Signal) Signalling(pkt []byte) bool {
	const solicitation, advertisement = 146, 147
	return s.Proto == Mobility || s.Proto == ICMPv6 && !s.Fragment && s.Off < len(pkt) && (pkt[s.Off] == solicitation || pkt[s.Off] == advertisement)
}

// The Home Address option and the type 2 routing header, RFC 6275 6.3, 6.4.
const (
	OptHomeAddress   = 0xc9
	RoutingType2     = 2
	HomeAddressLen   = 24 // octets of a Destination Options header that holds a Home Address option alone
	Routing2Len      = 24 // octets of a type 2 routing header
	homeAddressAlign = 6  // RFC 6275 6.3: the option begins at 8n + 6
	pad1, padN       = 0, 1
)

// Status of a Binding Error for a Home Address option that cannot be honoured, RFC 6275 6.1.9, 9.3.1.
const statusUnknownBinding = 1

var (
	errNot6         = &wire.Error{Msg: "signalling", Field: "Version", Reason: wire.BadValue, RFC: "RFC 8200 3"}
	errHomeLen      = &wire.Error{Msg: "Home Address option", Field: "Option Length", Reason: wire.BadOptionLength, RFC: "RFC 6275 6.3"}
	errHomeTwice    = &wire.Error{Msg: "Home Address option", Reason: wire.DuplicateOption, RFC: "RFC 6275 6.3"}
	errHomeOrder    = &wire.Error{Msg: "Home Address option", Field: "place before a routing header", Reason: wire.BadValue, RFC: "RFC 6275 6.3"}
	errHomeFragment = &wire.Error{Msg: "Home Address option", Field: "place behind a Fragment header", Reason: wire.BadValue, RFC: "RFC 6275 6.3"}
	errHomeAddr     = &wire.Error{Msg: "Home Address option", Field: "Home Address", Reason: wire.NotUnicast, RFC: "RFC 6275 9.3.1", Status: statusUnknownBinding}
	errRouteLen     = &wire.Error{Msg: "type 2 routing header", Field: "Hdr Ext Len", Reason: wire.BadLength, RFC: "RFC 6275 11.3.3"}
	errRouteLeft    = &wire.Error{Msg: "type 2 routing header", Field: "Segments Left", Reason: wire.BadValue, RFC: "RFC 6275 11.3.3"}
	errRouteTwice   = &wire.Error{Msg: "type 2 routing header", Reason: wire.DuplicateOption, RFC: "RFC 6275 6.4"}
	errRouteAddr    = &wire.Error{Msg: "type 2 routing header", Field: "Home Address", Reason: wire.NotUnicast, RFC: "RFC 6275 6.4"}
	errRouteType    = &wire.Error{Msg: "routing header", Field: "Routing Type", Reason: wire.UnknownType, RFC: "RFC 8200 4.4", ParameterProblem: true}
	errOptionDrop   = &wire.Error{Msg: "Destination Options", Field: "Option Type", Reason: wire.UnknownType, RFC: "RFC 8200 4.2"}
	errOptionTell   = &wire.Error{
		Msg: "Destination Options", Field: "Option Type", Reason: wire.UnknownType, RFC: "RFC 8200 4.2", ParameterProblem: true, Status: codeUnknownOption,
	}
	errHopOption = &wire.Error{Msg: "Hop-by-Hop Options", Field: "Option Type", Reason: wire.UnknownType, RFC: "RFC 8200 4.2"}
	errOptionCut = &wire.Error{Msg: "IPv6 extension header", Field: "Opt Data Len", Reason: wire.BadOptionLength, RFC: "RFC 8200 4.2"}
)

// codeUnknownOption is the code of a Parameter Problem about an option (RFC 4443 3.4).
const codeUnknownOption = 2

// ParseSignal walks a whole IPv6 packet from its header to its upper layer. What it passes on the way it understands: it fails
// for an unknown option that forbids to go on (RFC 8200 4.2) and for a routing header of another type that has segments left.
//
// Errors are *wire.Error. For a bad type 2 routing header nothing is answered (RFC 6275 11.3.3). ParameterProblem is set for
// other routing headers (RFC 8200 4.4) and, with Status 2 as its code, for options that ask for it; Off is the octet of pkt that
// it points to. Status 1 without it belongs to a Binding Error: the home address is no unicast routable address (RFC 6275 9.3.1).
func ParseSignal(pkt []byte) (Signal, error) {
	h, err := Parse(pkt)
	if err != nil {
		return Signal{}, err
	}
	if h.Is4() {
		return Signal{}, errNot6
	}
	s, atomic := Signal{Src: h.Src, Dst: h.Dst, Proto: h.Proto, Off: h.HdrLen, Len: h.Len}, false
	for n := 0; ; n++ {
		size := 0
		switch s.Proto {
		case HopByHop, DstOpts, Routing, Fragment:
			if s.Off+8 > h.Len {
				return s, errExtCut
			}
			size = 8 + int(pkt[s.Off+1])*8
		default:
			return s, nil
		}
		if n == maxExtensions {
			return s, errExtMany
		}
		if s.Proto == Fragment {
			size, atomic = 8, true
			// An atomic fragment is a whole packet (RFC 6946).
			if pkt[s.Off+2]|pkt[s.Off+3]&^6 != 0 {
				s.Proto, s.Fragment, s.Off = pkt[s.Off], true, s.Off+size
				return s, nil
			}
		}
		if s.Off+size > h.Len {
			return s, errExtCut
		}
		home := s.SrcHome
		if err := s.pass(pkt, pkt[s.Off:s.Off+size], n); err != nil {
			return s, err
		}
		if atomic && home != s.SrcHome {
			return s, errHomeFragment
		}
		s.Proto, s.Off = pkt[s.Off], s.Off+size
	}
}

// pass reads one extension header, the n-th.
func (s *Signal) pass(pkt, ext []byte, n int) error {
	switch s.Proto {
	case HopByHop:
		if n != 0 {
			return errExtOrder
		}
		return s.options(ext, true)
	case DstOpts:
		return s.options(ext, false)
	case Routing:
		return s.routing(ext)
	}
	return nil
}

// routing reads a routing header. Others than type 2 are passed when they have nothing left to do.
func (s *Signal) routing(ext []byte) error {
	if ext[2] != RoutingType2 {
		if ext[3] != 0 {
			return at(errRouteType, s.Off+2)
		}
		return nil
	}
	switch {
	case len(ext) != Routing2Len:
		return errRouteLen
	case ext[3] != 1:
		return errRouteLeft
	case s.DstHome.IsValid():
		return errRouteTwice
	case s.SrcHome.IsValid():
		return errHomeOrder
	}
	home := netip.AddrFrom16([16]byte(ext[8:24]))
	if !Routable(home) {
		return errRouteAddr
	}
	s.DstHome = home
	return nil
}

// options reads the options of a Hop-by-Hop or Destination Options header.
func (s *Signal) options(ext []byte, hop bool) error {
	for i := 2; i < len(ext); {
		t := ext[i]
		if t == pad1 {
			i++
			continue
		}
		if i+2 > len(ext) || i+2+int(ext[i+1]) > len(ext) {
			return errOptionCut
		}
		data := ext[i+2 : i+2+int(ext[i+1])]
		switch {
		case t == padN:
		case t == OptHomeAddress && !hop:
			if err := s.homeAddress(data); err != nil {
				return err
			}
		case t>>6 == 0: // to be skipped by who does not know it
		case hop:
			// The kernel, or the node that decapsulated, looks at these first and answers where an answer is due.
			return errHopOption
		case t>>6 == 1, t>>6 == 3 && s.Dst.IsMulticast():
			return errOptionDrop
		default:
			return at(errOptionTell, s.Off+i)
		}
		i += 2 + len(data)
	}
	return nil
}

func (s *Signal) homeAddress(data []byte) error {
	if len(data) != 16 {
		return errHomeLen
	}
	if s.SrcHome.IsValid() {
		return errHomeTwice
	}
	home := netip.AddrFrom16([16]byte(data))
	if !Routable(home) {
		// The Binding Error quotes it, so that a caller that answers needs it.
		s.SrcHome = home
		return errHomeAddr
	}
	s.SrcHome = home
	return nil
}

// at is err, which is not changed, with the octet that it is about. Only errors that are answered allocate.
func at(err *wire.Error, off int) error {
	e := *err
	e.Off = off
	return &e
}

// Routable reports whether a can be a home address or an IPv6 care-of address: unicast, of more than link scope, and not an IPv4
// address in disguise (RFC 6275 6.3, 6.4, 9.5.1).
func Routable(a netip.Addr) bool {
	return a.Is6() && !a.Is4In6() && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() && !a.IsLinkLocalUnicast()
}

// AppendSignal appends the headers of a packet of signalling whose upper layer, of n octets of s.Proto, the caller appends next:
//
//	IPv6 (Src -> Dst) | type 2 routing header (DstHome) | Destination Options with Home Address option (SrcHome)
//
// The order is that of RFC 6275 6.3 and RFC 4877 3: ESP or the Mobility Header follow. Off, Len and Fragment are not looked at.
func AppendSignal(b []byte, s *Signal, ttl uint8, n int) ([]byte, error) {
	if !s.Src.Is6() || !s.Dst.Is6() {
		return b, errNot6
	}
	h := Header{Src: s.Src, Dst: s.Dst, TTL: ttl, Proto: s.Proto}
	behind := s.Proto
	if s.SrcHome.IsValid() {
		if !Routable(s.SrcHome) {
			return b, errHomeAddr
		}
		n, h.Proto = n+HomeAddressLen, DstOpts
		behind = DstOpts
	}
	if s.DstHome.IsValid() {
		if !Routable(s.DstHome) {
			return b, errRouteAddr
		}
		n, h.Proto = n+Routing2Len, Routing
	}
	b, err := h.Append(b, n)
	if err != nil {
		return b, err
	}
	if s.DstHome.IsValid() {
		b = AppendRouting2(b, behind, s.DstHome)
	}
	if s.SrcHome.IsValid() {
		b = AppendHomeAddress(b, s.Proto, s.SrcHome)
	}
	return b, nil
}

// AppendRouting2 appends a type 2 routing header (RFC 6275 6.4.1).
func AppendRouting2(b []byte, next uint8, home netip.Addr) []byte {
	a := home.As16()
	return append(append(b, next, Routing2Len/8-1, RoutingType2, 1, 0, 0, 0, 0), a[:]...)
}

// AppendHomeAddress appends a Destination Options header with a Home Address option at octet 6, as its alignment wants
// (RFC 6275 6.3).
func AppendHomeAddress(b []byte, next uint8, home netip.Addr) []byte {
	a := home.As16()
	return append(append(b, next, HomeAddressLen/8-1, padN, homeAddressAlign-4, 0, 0, OptHomeAddress, 16), a[:]...)
}
