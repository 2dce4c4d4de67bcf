package homeagent

import (
	"fmt"
	"net/netip"

	"kedge/wire"
	"kedge/wire/mobility"
)

// Want is what one IPv4 Home Address option asks for, RFC 5555 3.1.1.
type Want uint8

const (
	ThisAddress Want = iota
	AnyAddress       // 0.0.0.0
	ThisNetwork      // a prefix of more than one address
	AnyNetwork       // 0.0.0.0 with flag P
)

// V4Refusal is why one option is answered with a status of 128 or more, while the rest of its request is accepted.
type V4Refusal struct {
	Status mobility.AddressStatus
	Reason wire.Reason
	Detail string
}

// RefuseV4 makes one.
func RefuseV4(s mobility.AddressStatus, r wire.Reason, format string, args ...any) *V4Refusal {
	return &V4Refusal{s, r, fmt.Sprintf(format, args...)}
}

// V4Ask tells what an option asks for. The prefix of ThisAddress has 32 bits; of those that ask for any, the address is
// 0.0.0.0.
func V4Ask(v mobility.IPv4HomeAddress) (Want, netip.Prefix, *V4Refusal) {
	bits := int(v.PrefixLen)
	if v.Short != 0 {
		bits = 32
	}
	p := netip.PrefixFrom(v.Addr, bits)
	switch {
	case bits == 0: // "A value of zero is invalid and MUST be considered an error"
		return 0, p, RefuseV4(mobility.AddressReasonUnspecified, wire.PrefixLengthZero, "%s", v.Addr)
	case v.Addr.IsUnspecified() && v.P:
		return AnyNetwork, p, nil
	case v.Addr.IsUnspecified():
		return AnyAddress, netip.PrefixFrom(v.Addr, 32), nil
	case !routable4(v.Addr):
		return 0, p, RefuseV4(mobility.AddressInvalid, wire.NotUnicast, "%s is no unicast address", v.Addr)
	case v.P || bits < 32 && p == p.Masked():
		// P is only for new requests: a refresh tells a prefix by its length.
		return ThisNetwork, p.Masked(), nil
	}
	// With a length below 32 and bits behind it, it is an address whose sender wrote the length of its network.
	return ThisAddress, netip.PrefixFrom(v.Addr, 32), nil
}

// V4Ack answers one option: got is what was bound for it, unless f says why nothing was. A refused one is copied; a bound
// single address has length 32, which cannot be taken for a prefix to use (RFC 5555 3.1.1, 3.2.1).
func V4Ack(v mobility.IPv4HomeAddress, got netip.Prefix, f *V4Refusal) mobility.IPv4AddressAck {
	var a mobility.IPv4AddressAck
	if v.Short == 1 {
		a.Short = 1
	}
	if f != nil {
		a.Status, a.Addr = f.Status, v.Addr
		return a
	}
	a.Addr = got.Addr()
	if v.Short == 0 { // the draft's has a reserved octet there
		a.PrefixLen = uint8(got.Bits())
	}
	return a
}
