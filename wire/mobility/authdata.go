package mobility

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"net/netip"

	"kedge/wire"
)

// Sizes of what return routability computes, in octets.
const (
	NodeKeyLen       = 20        // Kcn, RFC 6275 5.2.1
	NonceLen         = 8         // the length that RFC 6275 5.2.2 recommends
	TokenLen         = 8         // keygen tokens, RFC 6275 5.2.3
	BindingKeyLen    = sha1.Size // Kbm, RFC 6275 5.2.5
	AuthenticatorLen = 12        // RFC 6275 6.2.7
)

// KeygenToken is the home keygen token or the care-of keygen token of an address: the first 64 bits of
// HMAC_SHA1(Kcn, address | nonce | 0 or 1), RFC 6275 5.2.5.
func KeygenToken(kcn, nonce []byte, addr netip.Addr, careOf bool) (token [TokenLen]byte) {
	mac := hmac.New(sha1.New, kcn)
	a := addr.As16()
	mac.Write(a[:])
	mac.Write(nonce)
	mac.Write([]byte{byte(b2u(careOf))})
	copy(token[:], mac.Sum(nil))
	return token
}

// BindingKey is Kbm of a registration: SHA1(home keygen token | care-of keygen token), RFC 6275 5.2.5.
func BindingKey(home, careOf [TokenLen]byte) []byte {
	k := sha1.Sum(append(home[:], careOf[:]...))
	return k[:]
}

// DeregistrationKey is Kbm of a Binding Update that deletes a binding: SHA1(home keygen token), RFC 6275 5.2.5.
func DeregistrationKey(home [TokenLen]byte) []byte {
	k := sha1.Sum(home[:])
	return k[:]
}

// Authorized is a Binding Update to a correspondent, or its acknowledgement, with the proof that return routability gives. Append
// adds the Nonce Indices option where Nonces is set, and as the last one Binding Authorization Data (RFC 6275 6.2.7). The options
// of the message itself must not hold it.
//
// Key is Kbm, a secret. CareOf is the care-of address that is registered: the Alternate Care-of Address where there is one, and
// the home address in a deregistration. Peer is the correspondent; its home address, if it is mobile.
type Authorized struct {
	Message
	Nonces *NonceIndices
	Key    []byte `json:"-"`
	CareOf netip.Addr
	Peer   netip.Addr
}

// String is the message's name: no key gets into a log.
func (m *Authorized) String() string { return m.Type().String() }

var (
	errNoKey        = errors.New("no binding management key")
	errNoProof      = errors.New("it is not there, or not the last option")
	errProofLength  = errors.New("the authenticator does not have 12 octets")
	errNotAuthentic = errors.New("the authenticator is not that of the binding management key")
)

func badProof(m string, off int, r wire.Reason, cause error) error {
	return &wire.Error{Msg: m, Field: forms[OptBindingAuthorization].name + " option", Off: off, RFC: "RFC 6275 6.2.7", Reason: r, Err: cause}
}

// append is Append of this kind of message.
func (m *Authorized) append(b []byte, src, dst netip.Addr) ([]byte, error) {
	if m.Message == nil {
		return Append(b, nil, src, dst)
	}
	start, o := len(b), m.GetOptions()
	name := m.Type().String()
	if len(m.Key) == 0 || !m.CareOf.Is6() || !m.Peer.Is6() {
		return b, badProof(name, 0, wire.BadValue, errNoKey)
	}
	if o.Has(OptBindingAuthorization) || o.Has(OptNonceIndices) && m.Nonces != nil {
		return b, badProof(name, 0, wire.DuplicateOption, nil)
	}
	// Its own list: Add may write into the capacity of the message's.
	all := make(Options, 0, len(o)+32)
	all = append(all, o...)
	if m.Nonces != nil {
		all = all.AddAt(m.fixed(), *m.Nonces)
	}
	// Behind the padding nothing is left to pad (RFC 6275 6.2: MUST NOT have trailing padding).
	all = appendPad(all, -(m.fixed()+len(all)+2+AuthenticatorLen)&7)
	all = appendValue(all, BindingAuthorization{make([]byte, AuthenticatorLen)})
	b, err := Append(b, &replaced{m.Message, all}, src, dst)
	if err != nil {
		return b, err
	}
	h := b[start:]
	proof := authenticator(m.Key, m.CareOf, m.Peer, h[:len(h)-AuthenticatorLen])
	copy(h[len(h)-AuthenticatorLen:], proof[:])
	return b, SetChecksum(h, src, dst)
}

// replaced is a message with other options.
type replaced struct {
	Message
	options Options
}

func (m *replaced) GetOptions() Options { return m.options }

// VerifyAuthorization checks the Binding Authorization Data of a whole Mobility Header as it came (core.Message.Raw), which Parse
// has taken. key, careOf and peer are as in Authorized. An error is a *wire.Error: MissingAuthorization without the option as the
// last one, AuthFailed for a wrong authenticator.
func VerifyAuthorization(raw, key []byte, careOf, peer netip.Addr) error {
	name := "Mobility Header"
	if len(raw) < minLength {
		return badProof(name, len(raw), wire.Truncated, nil)
	}
	t := Type(raw[2])
	head := minimum(t)
	if name = t.String(); head == 0 || len(raw) < head || len(raw) > maxLength {
		return badProof(name, 1, wire.BadLength, nil)
	}
	var last Option
	o, at := Options(raw[head:]), 0
	for i := 0; i < len(o); {
		opt, end, ok := o.next(i)
		if !ok {
			return badProof(name, head+i, wire.BadOptionLength, nil)
		}
		last, at, i = opt, head+i, end
	}
	switch {
	case last.Type != OptBindingAuthorization:
		return badProof(name, at, wire.MissingAuthorization, errNoProof)
	case len(last.Data) != AuthenticatorLen:
		return badProof(name, at, wire.BadOptionLength, errProofLength)
	case len(key) == 0 || !careOf.Is6() || !peer.Is6():
		return badProof(name, at, wire.BadValue, errNoKey)
	}
	want := authenticator(key, careOf, peer, raw[:len(raw)-AuthenticatorLen])
	if !hmac.Equal(want[:], last.Data) {
		return badProof(name, at, wire.AuthFailed, errNotAuthentic)
	}
	return nil
}

// authenticator is First(96, HMAC_SHA1(Kbm, care-of address | correspondent | MH Data)), RFC 6275 6.2.7. mh is the Mobility Header
// up to the authenticator; its checksum counts as zero.
func authenticator(key []byte, careOf, peer netip.Addr, mh []byte) (proof [AuthenticatorLen]byte) {
	mac := hmac.New(sha1.New, key)
	c, p := careOf.As16(), peer.As16()
	var head [6]byte
	binary.BigEndian.PutUint32(head[:], binary.BigEndian.Uint32(mh))
	mac.Write(c[:])
	mac.Write(p[:])
	mac.Write(head[:])
	mac.Write(mh[6:])
	copy(proof[:], mac.Sum(nil))
	return proof
}
