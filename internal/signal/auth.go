package signal

import (
	"net/netip"

	"kedge/internal/core"
	"kedge/internal/ipsec"
	"kedge/internal/ipsec/rfc4285"
	"kedge/wire"
	"kedge/wire/ip"
	"kedge/wire/mobility"
)

// vouch finds who vouches for a message and holds it against the policy. auth is what ESP said.
func (c *Codec) vouch(now core.Now, s *ip.Signal, t ipsec.Traffic, auth core.Auth, b []byte) (core.Auth, error) {
	if c.cfg.IPsec == nil {
		return auth, nil
	}
	if auth.Kind == ipsec.KindNone && t.Proto == ip.Mobility && authenticated(b) {
		spi, ok, err := rfc4285.SPI(b)
		if err != nil {
			return auth, err
		}
		if a, peer, known := c.cfg.IPsec.Mobility(spi); ok && known {
			careOf, home := mobilityAddresses(s, b)
			if err := a.Verify(b, careOf, home); err != nil {
				return auth, err
			}
			auth = core.Auth{Kind: ipsec.KindRFC4285, SPI: spi, Peer: peer}
		}
		// An option of an association that we do not have proves nothing: the policy decides (RFC 4285 5.1.1).
	}
	auth, err := c.cfg.IPsec.Check(now, t, auth)
	if err != nil {
		return auth, counted{err}
	}
	return auth, nil
}

const (
	optionsAt     = 12 // where options start in the messages that are authenticated
	authOptionLen = 2 + 5 + rfc4285.AuthenticatorSize
)

// sign appends the MN-HA option to the Mobility Header in b[head:] as its last option, and authenticates it.
func (c *Codec) sign(spi uint32, s *ip.Signal, b []byte, head int) ([]byte, error) {
	a, _, ok := c.cfg.IPsec.Mobility(spi)
	if !ok {
		return b, wire.UnknownSPI
	}
	mh := b[head:]
	if len(mh) < optionsAt || len(mh) != (int(mh[1])+1)*8 {
		return b, &wire.Error{Msg: "Mobility Header", Field: "Header Len", Off: 1, RFC: "RFC 4285 5.1", Reason: wire.BadLength}
	}
	b = b[:head+unpadded(mh)]
	b = pad(b, (1-(len(b)-head))&3) // the option begins at 4n + 1
	b = append(b, byte(mobility.OptAuthentication), authOptionLen-2, mobility.SubtypeMNHA, byte(spi>>24), byte(spi>>16), byte(spi>>8), byte(spi))
	b = append(b, make([]byte, rfc4285.AuthenticatorSize)...)
	b = pad(b, -(len(b)-head)&7)
	mh = b[head:]
	if len(mh) > 256*8 {
		return b, &wire.Error{Msg: "Mobility Header", Field: "options", Off: optionsAt, RFC: "RFC 4285 5.1", Reason: wire.TooLong}
	}
	mh[1] = byte(len(mh)/8 - 1)
	careOf, home := mobilityAddresses(s, mh)
	src, dst := s.Ends()
	return b, a.Sign(mh, careOf, home, src, dst)
}

// unpadded is where the last option ends. The short layouts of options 29 and 30 lie about their length (see wire/mobility): a
// message with one keeps its padding.
func unpadded(mh []byte) int {
	end := optionsAt
	for i := optionsAt; i < len(mh); {
		switch t := mobility.OptionType(mh[i]); {
		case t == mobility.OptPad1:
			i++
			continue
		case i+2 > len(mh) || i+2+int(mh[i+1]) > len(mh):
			return len(mh)
		case (t == mobility.OptIPv4HomeAddress || t == mobility.OptIPv4AddressAck) && mh[i+1] != 6:
			return len(mh)
		case t == mobility.OptPadN:
			i += 2 + int(mh[i+1])
		default:
			i += 2 + int(mh[i+1])
			end = i
		}
	}
	return end
}

// pad appends n octets of padding, fewer than eight (RFC 6275 6.2.2, 6.2.3).
func pad(b []byte, n int) []byte {
	switch n {
	case 0:
		return b
	case 1:
		return append(b, byte(mobility.OptPad1))
	}
	return append(append(b, byte(mobility.OptPadN), byte(n-2)), make([]byte, n-2)...)
}

// authenticated: RFC 4285 5 authenticates Binding Updates and Acknowledgements, and RFC 5846 5.1 wants the same for revocations.
func authenticated(b []byte) bool {
	switch mobilityType(b) {
	case mobility.TypeBindingUpdate, mobility.TypeBindingAck, mobility.TypeBindingRevocation:
		return true
	}
	return false
}

// mobilityAddresses are the care-of address and the home address of RFC 4285 5.1: those of the mobile node in the IPv6 headers as
// they are on the wire, which both ends know and no NAT changes. Without Home Address option or type 2 routing header, in UDP and
// at home, both are the home address. An alternate care-of address is in the message, so that it is authenticated as well.
func mobilityAddresses(s *ip.Signal, b []byte) (careOf, home netip.Addr) {
	src, dst := s.Ends()
	fromNode := mobilityType(b) == mobility.TypeBindingUpdate
	if mobilityType(b) == mobility.TypeBindingRevocation {
		fromNode = len(b) > 6 && b[6] == revocationAck
	}
	if fromNode {
		return s.Src, src
	}
	return s.Dst, dst
}

// revocationAck is the B.R. Type of what the node sends (RFC 5846 6.2).
const revocationAck = 2
