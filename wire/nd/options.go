package nd

import (
	"encoding/binary"
	"iter"
	"net/netip"
	"strings"

	"kedge/wire"
)

// Option types (RFC 4861 4.6, RFC 6275 7.3, 7.4, RFC 4191 2.3, RFC 8106 5).
const (
	optSourceLL   uint8 = 1
	optTargetLL   uint8 = 2
	optPrefix     uint8 = 3
	optRedirected uint8 = 4
	optMTU        uint8 = 5
	optInterval   uint8 = 7
	optHomeAgent  uint8 = 8
	OptRouteInfo  uint8 = 24 // kept as RawOption
	optRDNSS      uint8 = 25
	optDNSSL      uint8 = 31
)

// MaxOptions is how many options one message may have; a longer list is refused with too-many-options.
const MaxOptions = 64

// Infinity is the lifetime that never ends (RFC 4861 4.6.2), in seconds.
const Infinity uint32 = 0xffffffff

// Option is one Neighbor Discovery option.
type Option interface {
	// append writes the whole option, type and length included.
	append(b []byte) ([]byte, error)
}

type (
	// SourceLinkLayer is the sender's link-layer address (RFC 4861 4.6.1).
	SourceLinkLayer [6]byte
	// TargetLinkLayer is the target's link-layer address (RFC 4861 4.6.1).
	TargetLinkLayer [6]byte
	// PrefixInformation is a prefix for on-link determination and autoconfiguration (RFC 4861 4.6.2). Host bits of Prefix
	// are kept: with RouterAddr (RFC 6275 7.2) they are the router's address.
	PrefixInformation struct {
		Prefix           netip.Prefix
		OnLink           bool // L
		Autonomous       bool // A
		RouterAddr       bool // R
		Valid, Preferred uint32
	}
	// MTU is the link's MTU in octets (RFC 4861 4.6.4).
	MTU uint32
	// RDNSS is a list of recursive DNS servers (RFC 8106 5.1). Lifetime in seconds, 0 = stop using them.
	RDNSS struct {
		Lifetime uint32
		Servers  []netip.Addr
	}
	// DNSSL is a DNS search list (RFC 8106 5.2). Domains are without the final dot.
	DNSSL struct {
		Lifetime uint32
		Domains  []string
	}
	// RawOption is any other option. Data is what follows the length, with padding: 8n-2 octets.
	RawOption struct {
		Type uint8
		Data []byte
	}
)

// Options is the list of a message, in order.
type Options []Option

// SourceLL gives the first source link-layer address.
func (o Options) SourceLL() ([6]byte, bool) {
	for _, x := range o {
		if a, ok := x.(SourceLinkLayer); ok {
			return a, true
		}
	}
	return [6]byte{}, false
}

// TargetLL gives the first target link-layer address.
func (o Options) TargetLL() ([6]byte, bool) {
	for _, x := range o {
		if a, ok := x.(TargetLinkLayer); ok {
			return a, true
		}
	}
	return [6]byte{}, false
}

// Prefixes gives the Prefix Information options in order.
func (o Options) Prefixes() iter.Seq[*PrefixInformation] {
	return func(yield func(*PrefixInformation) bool) {
		for _, x := range o {
			if p, ok := x.(*PrefixInformation); ok && !yield(p) {
				return
			}
		}
	}
}

func (o Options) append(b []byte) ([]byte, error) {
	for _, x := range o {
		var err error
		if b, err = x.append(b); err != nil {
			return b, err
		}
	}
	return b, nil
}

// parseOptions reads the options b of a message of type t; off is the octet where b starts in the message. Lengths are in
// units of eight octets; a length of 0 makes the whole message invalid (RFC 4861 4.6).
func parseOptions(t uint8, b []byte, off int) (Options, error) {
	var list Options
	for len(b) > 0 {
		if len(b) < 2 {
			return nil, fault(t, "option header", off, "RFC 4861 4.6", wire.Truncated)
		}
		n := 8 * int(b[1])
		if n == 0 {
			return nil, fault(t, "option length", off+1, "RFC 4861 4.6", wire.BadOptionLength)
		}
		if n > len(b) {
			return nil, fault(t, "option length", off+1, "RFC 4861 4.6", wire.Truncated)
		}
		if len(list) == MaxOptions {
			return nil, fault(t, "options", off, "", wire.TooManyOptions)
		}
		o, err := parseOption(t, b[:n:n], off)
		if err != nil {
			return nil, err
		}
		list = append(list, o)
		b, off = b[n:], off+n
	}
	return list, nil
}

// specified says whether an option is one for messages of type t. What others hold must not make the message invalid, whatever
// it is (RFC 4861 6.1.1, 6.1.2, 7.1.1, 7.1.2, 8.1, RFC 6275 6.7, 6.8, 7.3, 7.4).
func specified(t, option uint8) bool {
	switch t {
	case TypeRouterSolicitation, TypeNeighborSolicitation:
		return option == optSourceLL
	case TypeNeighborAdvertisement, TypeRedirect:
		return option == optTargetLL
	case TypeMobilePrefixSolicitation: // RFC 6275 6.7 defines none
		return false
	case TypeMobilePrefixAdvertisement:
		return option == optPrefix
	}
	return option != optTargetLL
}

func parseOption(t uint8, b []byte, off int) (Option, error) {
	bad := func(field, rfc string) (Option, error) {
		return nil, fault(t, field, off, rfc, wire.BadOptionLength)
	}
	if !specified(t, b[0]) {
		return &RawOption{Type: b[0], Data: b[2:]}, nil
	}
	switch b[0] {
	case optSourceLL:
		if len(b) != 8 {
			return bad("Source Link-Layer Address option", "RFC 2464 6")
		}
		return SourceLinkLayer(b[2:8]), nil
	case optTargetLL:
		if len(b) != 8 {
			return bad("Target Link-Layer Address option", "RFC 2464 6")
		}
		return TargetLinkLayer(b[2:8]), nil
	case optPrefix:
		if len(b) != 32 {
			return bad("Prefix Information option", "RFC 4861 4.6.2")
		}
		if b[2] > 128 {
			return nil, fault(t, "Prefix Information option", off+2, "RFC 4861 4.6.2", wire.BadPrefixLength)
		}
		return &PrefixInformation{
			Prefix: netip.PrefixFrom(netip.AddrFrom16([16]byte(b[16:32])), int(b[2])),
			OnLink: b[3]&0x80 != 0, Autonomous: b[3]&0x40 != 0, RouterAddr: b[3]&0x20 != 0,
			Valid: binary.BigEndian.Uint32(b[4:8]), Preferred: binary.BigEndian.Uint32(b[8:12]),
		}, nil
	case optMTU:
		if len(b) != 8 {
			return bad("MTU option", "RFC 4861 4.6.4")
		}
		return MTU(binary.BigEndian.Uint32(b[4:8])), nil
	case optInterval:
		if len(b) != 8 {
			return bad("Advertisement Interval option", "RFC 6275 7.3")
		}
		return AdvertisementInterval(binary.BigEndian.Uint32(b[4:8])), nil
	case optHomeAgent:
		if len(b) != 8 {
			return bad("Home Agent Information option", "RFC 6275 7.4")
		}
		return HomeAgentInformation{Mobile: b[2]&0x80 != 0, Preference: binary.BigEndian.Uint16(b[4:6]), Lifetime: binary.BigEndian.Uint16(b[6:8])}, nil
	case optRDNSS:
		if len(b) < 24 || len(b)%16 != 8 {
			return bad("Recursive DNS Server option", "RFC 8106 5.1")
		}
		o := &RDNSS{Lifetime: binary.BigEndian.Uint32(b[4:8])}
		for at := 8; at < len(b); at += 16 {
			o.Servers = append(o.Servers, netip.AddrFrom16([16]byte(b[at:at+16])))
		}
		return o, nil
	case optDNSSL:
		if len(b) < 16 {
			return bad("DNS Search List option", "RFC 8106 5.2")
		}
		names, ok := parseNames(b[8:])
		if !ok {
			return nil, fault(t, "DNS Search List option", off+8, "RFC 8106 5.2", wire.BadValue)
		}
		return &DNSSL{Lifetime: binary.BigEndian.Uint32(b[4:8]), Domains: names}, nil
	}
	return &RawOption{Type: b[0], Data: b[2:]}, nil
}

func (o SourceLinkLayer) append(b []byte) ([]byte, error) {
	return append(append(b, optSourceLL, 1), o[:]...), nil
}

func (o TargetLinkLayer) append(b []byte) ([]byte, error) {
	return append(append(b, optTargetLL, 1), o[:]...), nil
}

func (o *PrefixInformation) append(b []byte) ([]byte, error) {
	if !o.Prefix.IsValid() || !o.Prefix.Addr().Is6() || o.Prefix.Addr().Is4In6() {
		return b, fault(TypeRouterAdvertisement, "Prefix Information option", 0, "RFC 4861 4.6.2", wire.BadValue)
	}
	var flags byte
	if o.OnLink {
		flags |= 0x80
	}
	if o.Autonomous {
		flags |= 0x40
	}
	if o.RouterAddr {
		flags |= 0x20
	}
	b = append(b, optPrefix, 4, byte(o.Prefix.Bits()), flags)
	b = binary.BigEndian.AppendUint32(b, o.Valid)
	b = binary.BigEndian.AppendUint32(b, o.Preferred)
	p := o.Prefix.Addr().As16()
	return append(append(b, 0, 0, 0, 0), p[:]...), nil
}

func (o MTU) append(b []byte) ([]byte, error) {
	return binary.BigEndian.AppendUint32(append(b, optMTU, 1, 0, 0), uint32(o)), nil
}

func (o *RDNSS) append(b []byte) ([]byte, error) {
	if n := len(o.Servers); n == 0 || n > 127 {
		return b, fault(TypeRouterAdvertisement, "Recursive DNS Server option", 0, "RFC 8106 5.1", wire.BadLength)
	}
	b = append(b, optRDNSS, byte(1+2*len(o.Servers)), 0, 0)
	b = binary.BigEndian.AppendUint32(b, o.Lifetime)
	for _, s := range o.Servers {
		a := s.As16()
		b = append(b, a[:]...)
	}
	return b, nil
}

func (o *DNSSL) append(b []byte) ([]byte, error) {
	at := len(b)
	b = binary.BigEndian.AppendUint32(append(b, optDNSSL, 0, 0, 0), o.Lifetime)
	for _, d := range o.Domains {
		var ok bool
		if b, ok = appendName(b, d); !ok {
			return b[:at], fault(TypeRouterAdvertisement, "DNS Search List option", 0, "RFC 1035 3.1", wire.BadValue)
		}
	}
	for (len(b)-at)%8 != 0 {
		b = append(b, 0)
	}
	if n := (len(b) - at) / 8; n < 2 || n > 255 {
		return b[:at], fault(TypeRouterAdvertisement, "DNS Search List option", 0, "RFC 8106 5.2", wire.BadLength)
	}
	b[at+1] = byte((len(b) - at) / 8)
	return b, nil
}

func (o *RawOption) append(b []byte) ([]byte, error) {
	n := len(o.Data) + 2
	if n%8 != 0 || n > 255*8 {
		return b, fault(0, "option", 0, "RFC 4861 4.6", wire.BadOptionLength)
	}
	return append(append(b, o.Type, byte(n/8)), o.Data...), nil
}

// appendName writes a domain name as labels (RFC 1035 3.1), never compressed (RFC 8106 5.2).
func appendName(b []byte, name string) ([]byte, bool) {
	name = strings.TrimSuffix(name, ".")
	if name == "" || len(name) > 253 {
		return b, false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 {
			return b, false
		}
		b = append(append(b, byte(len(label))), label...)
	}
	return append(b, 0), true
}

// parseNames reads names until the zero padding.
func parseNames(b []byte) (names []string, ok bool) {
	for len(b) > 0 && b[0] != 0 {
		var labels []string
		length := 0
		for {
			if len(b) == 0 {
				return nil, false
			}
			n := int(b[0])
			b = b[1:]
			if n == 0 {
				break
			}
			// A dot within a label could not be told from the dot between labels.
			if n > 63 || n > len(b) || strings.IndexByte(string(b[:n]), '.') >= 0 {
				return nil, false
			}
			length += n + 1
			labels = append(labels, string(b[:n]))
			b = b[n:]
		}
		if length > 254 {
			return nil, false
		}
		names = append(names, strings.Join(labels, "."))
	}
	for _, c := range b {
		if c != 0 {
			return nil, false
		}
	}
	return names, len(names) > 0
}
