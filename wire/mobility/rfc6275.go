package mobility

import (
	"encoding/binary"
	"net/netip"
)

// BindingRefreshAdvice asks to renew a binding before its lifetime ends, RFC 6275 6.2.4.
type BindingRefreshAdvice struct{ Interval uint16 } // units of 4 s

func (BindingRefreshAdvice) OptionType() OptionType { return OptBindingRefreshAdvice }

func (v BindingRefreshAdvice) appendTLV(b []byte) []byte {
	return binary.BigEndian.AppendUint16(append(b, byte(OptBindingRefreshAdvice), 2), v.Interval)
}

func decodeBindingRefreshAdvice(o Option) BindingRefreshAdvice {
	return BindingRefreshAdvice{binary.BigEndian.Uint16(o.Data)}
}

// BindingRefreshAdvice reads the first such option.
func (o Options) BindingRefreshAdvice() (BindingRefreshAdvice, bool) {
	return read(o, OptBindingRefreshAdvice, decodeBindingRefreshAdvice)
}

// AlternateCareOf is the care-of address where it is not the packet's source, RFC 6275 6.2.5.
type AlternateCareOf struct{ Addr netip.Addr }

func (AlternateCareOf) OptionType() OptionType { return OptAlternateCareOf }

func (v AlternateCareOf) appendTLV(b []byte) []byte {
	return appendIPv6(append(b, byte(OptAlternateCareOf), 16), v.Addr)
}

func decodeAlternateCareOf(o Option) AlternateCareOf { return AlternateCareOf{ipv6(o.Data)} }

// AlternateCareOf reads the first such option.
func (o Options) AlternateCareOf() (AlternateCareOf, bool) {
	return read(o, OptAlternateCareOf, decodeAlternateCareOf)
}

// NonceIndices say with which nonces a correspondent makes its keygen tokens again, RFC 6275 6.2.6.
type NonceIndices struct{ Home, CareOf uint16 }

func (NonceIndices) OptionType() OptionType { return OptNonceIndices }

func (v NonceIndices) appendTLV(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(append(b, byte(OptNonceIndices), 4), v.Home)
	return binary.BigEndian.AppendUint16(b, v.CareOf)
}

func decodeNonceIndices(o Option) NonceIndices {
	return NonceIndices{Home: binary.BigEndian.Uint16(o.Data), CareOf: binary.BigEndian.Uint16(o.Data[2:])}
}

// NonceIndices reads the first such option.
func (o Options) NonceIndices() (NonceIndices, bool) {
	return read(o, OptNonceIndices, decodeNonceIndices)
}

// BindingAuthorization is the Binding Authorization Data option, RFC 6275 6.2.7: the last in its message, nothing behind
// it. Read, the Authenticator aliases the message.
type BindingAuthorization struct{ Authenticator []byte }

func (BindingAuthorization) OptionType() OptionType { return OptBindingAuthorization }

func (v BindingAuthorization) appendTLV(b []byte) []byte {
	return append(append(b, byte(OptBindingAuthorization), byte(len(v.Authenticator))), v.Authenticator...)
}

func decodeBindingAuthorization(o Option) BindingAuthorization { return BindingAuthorization{o.Data} }

// BindingAuthorization reads the first such option.
func (o Options) BindingAuthorization() (BindingAuthorization, bool) {
	return read(o, OptBindingAuthorization, decodeBindingAuthorization)
}
