package mobility

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// Value is a typed option that can be added to Options: one of the value types of this package.
type Value interface {
	// OptionType is the type octet it is written with.
	OptionType() OptionType
	// appendTLV writes type, length and data.
	appendTLV(b []byte) []byte
}

// RawOption is any other option.
type RawOption struct {
	Opt  OptionType
	Data []byte
}

func (v RawOption) OptionType() OptionType { return v.Opt }

func (v RawOption) appendTLV(b []byte) []byte {
	return append(append(b, byte(v.Opt), byte(len(v.Data))), v.Data...)
}

// baseUpdate is the octet where the options of most messages start.
const baseUpdate = 12

// Add appends options, each with the padding that its alignment needs in a Binding Update, Binding Acknowledgement,
// Heartbeat or Binding Revocation. The final padding is Append's. A Binding Authorization Data option must be the last.
//
// A value that has no wire form (longer than 255 octets, an IPv6 address in a place for an IPv4 one) makes Append of the
// message fail with wire.TooLong. The zero netip.Addr is written as the unspecified address.
//
// As append, Add may write into the capacity of o: Clone before two lists grow out of one.
func (o Options) Add(vs ...Value) Options { return o.AddAt(baseUpdate, vs...) }

// AddAt is Add for options that start at octet base of the Mobility Header: 8 in a Binding Refresh Request, 16 in a test
// init, 24 in a test and a Binding Error.
func (o Options) AddAt(base int, vs ...Value) Options {
	if cap(o) == 0 {
		o = make(Options, 0, 128) // most messages end within
	}
	for _, v := range vs {
		start := len(o)
		o = appendValue(o, v)
		tlv := o[start:]
		if len(tlv) > 2+255 {
			return append(o[:start], make([]byte, maxLength)...) // longer than any header: Append says so
		}
		n, y := place(tlv)
		if pad := ((y-base-start)%n + n) % n; pad > 0 {
			var zero [8]byte
			o = slices.Insert(o, start, zero[:pad]...)
			appendPad(o[:start], pad)
		}
	}
	return o
}

// appendPad writes n octets of padding, RFC 6275 6.2.2 and 6.2.3.
func appendPad(b []byte, n int) []byte {
	switch n {
	case 0:
		return b
	case 1:
		return append(b, byte(OptPad1))
	}
	b = append(b, byte(OptPadN), byte(n-2))
	for range n - 2 {
		b = append(b, 0)
	}
	return b
}

// appendValue calls each type's own method. Through the interface's method every value would have to live on the heap.
func appendValue(b []byte, v Value) []byte {
	switch v := v.(type) {
	case BindingRefreshAdvice:
		return v.appendTLV(b)
	case AlternateCareOf:
		return v.appendTLV(b)
	case NonceIndices:
		return v.appendTLV(b)
	case BindingAuthorization:
		return v.appendTLV(b)
	case MobileNetworkPrefix:
		return v.appendTLV(b)
	case MobileNodeID:
		return v.appendTLV(b)
	case Authentication:
		return v.appendTLV(b)
	case MessageID:
		return v.appendTLV(b)
	case VendorSpecific:
		return v.appendTLV(b)
	case ServiceSelection:
		return v.appendTLV(b)
	case HomeNetworkPrefix:
		return v.appendTLV(b)
	case HandoffIndicator:
		return v.appendTLV(b)
	case AccessTechnology:
		return v.appendTLV(b)
	case LinkLayerID:
		return v.appendTLV(b)
	case LinkLocalAddress:
		return v.appendTLV(b)
	case Timestamp:
		return v.appendTLV(b)
	case RestartCounter:
		return v.appendTLV(b)
	case IPv4HomeAddress:
		return v.appendTLV(b)
	case IPv4AddressAck:
		return v.appendTLV(b)
	case NATDetection:
		return v.appendTLV(b)
	case IPv4CareOf:
		return v.appendTLV(b)
	case GREKey:
		return v.appendTLV(b)
	case IPv4HomeAddressRequest:
		return v.appendTLV(b)
	case IPv4HomeAddressReply:
		return v.appendTLV(b)
	case IPv4DefaultRouter:
		return v.appendTLV(b)
	case IPv4DHCPSupportMode:
		return v.appendTLV(b)
	case RawOption:
		return v.appendTLV(b)
	}
	panic("mobility: a Value of another package or nil") // Value has an unexported method: only an embedding gets here
}

// value is the option's typed value.
func (o Option) value() Value {
	if o.check() == "" {
		switch o.Type {
		case OptBindingRefreshAdvice:
			return decodeBindingRefreshAdvice(o)
		case OptAlternateCareOf:
			return decodeAlternateCareOf(o)
		case OptNonceIndices:
			return decodeNonceIndices(o)
		case OptBindingAuthorization:
			return decodeBindingAuthorization(o)
		case OptMobileNetworkPrefix:
			return decodeMobileNetworkPrefix(o)
		case OptMobileNodeID:
			return decodeMobileNodeID(o)
		case OptAuthentication:
			return decodeAuthentication(o)
		case OptMessageID:
			return decodeMessageID(o)
		case OptVendorSpecific:
			return decodeVendorSpecific(o)
		case OptServiceSelection:
			return decodeServiceSelection(o)
		case OptHomeNetworkPrefix:
			return decodeHomeNetworkPrefix(o)
		case OptHandoffIndicator:
			return decodeHandoffIndicator(o)
		case OptAccessTechnology:
			return decodeAccessTechnology(o)
		case OptLinkLayerID:
			return decodeLinkLayerID(o)
		case OptLinkLocalAddress:
			return decodeLinkLocalAddress(o)
		case OptTimestamp:
			return decodeTimestamp(o)
		case OptRestartCounter:
			return decodeRestartCounter(o)
		case OptIPv4HomeAddress:
			return decodeIPv4HomeAddress(o)
		case OptIPv4AddressAck:
			return decodeIPv4AddressAck(o)
		case OptNATDetection:
			return decodeNATDetection(o)
		case OptIPv4CareOf:
			return decodeIPv4CareOf(o)
		case OptGREKey:
			return decodeGREKey(o)
		case OptIPv4HomeAddressRequest:
			return decodeIPv4HomeAddressRequest(o)
		case OptIPv4HomeAddressReply:
			return decodeIPv4HomeAddressReply(o)
		case OptIPv4DefaultRouter:
			return decodeIPv4DefaultRouter(o)
		case OptIPv4DHCPSupportMode:
			return decodeIPv4DHCPSupportMode(o)
		}
	}
	return RawOption{o.Type, o.Data}
}

// noWireForm is longer than any option: AddAt takes it as a value that cannot be written.
var noWireForm [2 + 256]byte

func appendIPv6(b []byte, a netip.Addr) []byte {
	o := a.As16()
	return append(b, o[:]...)
}

// appendIPv4 takes IPv4-mapped addresses too.
func appendIPv4(b []byte, a netip.Addr) []byte {
	if a = a.Unmap(); a.Is6() {
		return append(b, noWireForm[:]...)
	}
	var o [4]byte
	if a.IsValid() {
		o = a.As4()
	}
	return append(b, o[:]...)
}

func ipv6(b []byte) netip.Addr { return netip.AddrFrom16([16]byte(b)) }
func ipv4(b []byte) netip.Addr { return netip.AddrFrom4([4]byte(b)) }

// appendPrefix writes the common end of the two prefix options: reserved octet, length, sixteen octets.
func appendPrefix(b []byte, p netip.Prefix) []byte {
	if p.IsValid() && p.Addr().Is4() {
		return append(b, noWireForm[:]...)
	}
	return appendIPv6(append(b, 0, byte(max(p.Bits(), 0))), p.Addr())
}

func prefix(d []byte) netip.Prefix { return netip.PrefixFrom(ipv6(d[2:]), int(d[1])) }

func appendTLV32(b []byte, t OptionType, v uint32) []byte {
	return binary.BigEndian.AppendUint32(append(b, byte(t), 4), v)
}

func appendTLV64(b []byte, t OptionType, v uint64) []byte {
	return binary.BigEndian.AppendUint64(append(b, byte(t), 8), v)
}
