// Package rfc4285 computes and verifies the MN-HA mobility message authentication option, and judges the timestamps of the
// message-id option (RFC 4285 5.1 and 6). It knows no peers and no clock and holds no lock. MN-AAA authentication (5.2) is left
// out: there is no AAA server here that could hold its keys.
package rfc4285

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"kedge/internal/ipsec/secret"
	"kedge/wire"
	"kedge/wire/mobility"
)

// Sizes and limits of RFC 4285.
const (
	KeySize           = 16              // 5.1: the key is 16 octets in length
	AuthenticatorSize = 12              // 5.1: the first 96 bits
	MinSPI            = 256             // 5.1: [0-255] is reserved
	DefaultWindow     = 7 * time.Second // 5.1
	MinWindow         = 3 * time.Second // 5.1: greater than
)

// Association is a mobility security association between a mobile node and its home agent, RFC 4285 5.1.
type Association struct {
	SPI uint32 // 256 and above
	Key secret.Key
	// MessageID makes the message-id option the replay protection; without it the sequence number of the Binding Update is.
	MessageID bool
	// Window is how far a timestamp may be from our clock; 0 = DefaultWindow. More than 3 s.
	Window time.Duration
}

// Check says what is wrong with an association that came from a configuration.
func (a *Association) Check() error {
	switch {
	case a.SPI < MinSPI:
		return fmt.Errorf("mobility SPI %d: 0 to 255 are reserved (RFC 4285 5.1)", a.SPI)
	case len(a.Key) != KeySize:
		return fmt.Errorf("the key has %d octets, want %d (RFC 4285 5.1)", len(a.Key), KeySize)
	case a.Window != 0 && a.Window <= MinWindow:
		return fmt.Errorf("timestamp window %v: want more than %v (RFC 4285 5.1)", a.Window, MinWindow)
	}
	return nil
}

// Option is the placeholder to add as the last option of a message that Sign completes.
func (a *Association) Option() mobility.Authentication {
	return mobility.Authentication{Subtype: mobility.SubtypeMNHA, SPI: a.SPI, Authenticator: make([]byte, AuthenticatorSize)}
}

// Sign fills the authenticator of the last option of mh, a whole Mobility Header as mobility.Append wrote it with Option as its
// last option and with the pseudo header src, dst; and puts the checksum right. careOf is the care-of address that the message
// is about (in a Binding Update: where the binding leads; in its acknowledgement: the same), home the home address.
func (a *Association) Sign(mh []byte, careOf, home, src, dst netip.Addr) error {
	at, ok, err := find(mh)
	if err != nil {
		return err
	}
	if !ok {
		return fail(0, "RFC 4285 5.1", wire.BadValue, 0)
	}
	if spi := binary.BigEndian.Uint32(mh[at+3:]); spi != a.SPI {
		return fmt.Errorf("the option has SPI %#x, the association %#x", spi, a.SPI)
	}
	sum := a.sum(mh[:at+optionHead], careOf, home)
	copy(mh[at+optionHead:], sum[:AuthenticatorSize])
	return mobility.SetChecksum(mh, src, dst)
}

// SPI finds the MN-HA option and gives its SPI, by which the association is found. ok is false where there is no such option.
// An option that is not the last, has another subtype only or a wrong length is an error.
func SPI(mh []byte) (spi uint32, ok bool, err error) {
	at, found, err := find(mh)
	if !found || err != nil {
		return 0, false, err
	}
	return binary.BigEndian.Uint32(mh[at+3:]), true, nil
}

// Verify checks the MN-HA option of mh, a whole Mobility Header. An error is a *wire.Error: with Status 146 (MIPV6-AUTH-FAIL,
// RFC 4285 5.3) and wire.AuthFailed where the authenticator is wrong, with wire.Unprotected where there is no option.
func (a *Association) Verify(mh []byte, careOf, home netip.Addr) error {
	at, ok, err := find(mh)
	if err != nil {
		return err
	}
	if !ok {
		return fail(0, "RFC 4285 5.1.1", wire.Unprotected, 0)
	}
	sum := a.sum(mh[:at+optionHead], careOf, home)
	if binary.BigEndian.Uint32(mh[at+3:]) != a.SPI || !hmac.Equal(sum[:AuthenticatorSize], mh[at+optionHead:at+optionHead+AuthenticatorSize]) {
		return fail(at, "RFC 4285 5.3", wire.AuthFailed, mobility.MIPv6AuthFail)
	}
	return nil
}

const (
	optionsAt  = 12        // where options start in the messages that are authenticated: types 5, 6 and 16
	optionHead = 2 + 1 + 4 // type, length, subtype, SPI
	typeOption = byte(mobility.OptAuthentication)
)

// sum is HMAC_SHA1(key, care-of address | home address | MH data), the checksum taken as 0.
func (a *Association) sum(mh []byte, careOf, home netip.Addr) (sum [sha1.Size]byte) {
	h := hmac.New(sha1.New, a.Key)
	for _, addr := range [...]netip.Addr{careOf, home} {
		b := addr.As16()
		h.Write(b[:])
	}
	h.Write(mh[:4])
	h.Write([]byte{0, 0})
	h.Write(mh[6:])
	h.Sum(sum[:0])
	return sum
}

// find gives the offset of the one MN-HA option. It trusts nothing: Verify runs before anything else looked at the message.
func find(mh []byte) (at int, ok bool, err error) {
	if len(mh) < optionsAt {
		return 0, false, fail(len(mh), "RFC 6275 6.1.1", wire.Truncated, 0)
	}
	for i := optionsAt; i < len(mh); {
		if mh[i] == byte(mobility.OptPad1) {
			i++
			continue
		}
		end := i + 2
		if end <= len(mh) {
			end += mobility.DataLength(mobility.OptionType(mh[i]), mh[i+1])
		}
		if end > len(mh) {
			return 0, false, fail(i, "RFC 6275 6.2.1", wire.BadOptionLength, 0)
		}
		switch {
		case mh[i] == byte(mobility.OptPadN):
		case ok && (mh[i] != typeOption || mh[i+1] < 5 || mh[i+2] != mobility.SubtypeMNAAA): // 5.1: only MN-AAA may follow
			return 0, false, fail(i, "RFC 4285 5.1", wire.BadValue, 0)
		case mh[i] == typeOption && mh[i+1] >= 5 && mh[i+2] == mobility.SubtypeMNHA:
			if mh[i+1] != 5+AuthenticatorSize {
				return 0, false, fail(i, "RFC 4285 5.1", wire.BadOptionLength, 0)
			}
			at, ok = i, true
		}
		i = end
	}
	return at, ok, nil
}

func fail(off int, rfc string, r wire.Reason, status mobility.Status) error {
	return &wire.Error{Msg: "Mobility Header", Field: "Mobility Message Authentication option", Off: off, RFC: rfc, Reason: r, Status: uint8(status)}
}
