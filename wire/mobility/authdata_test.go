package mobility

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"kedge/internal/spec"
	"kedge/internal/testpcap"
	"kedge/wire"
)

var (
	authHome   = netip.MustParseAddr("2001:db8:1::100")
	authCareOf = netip.MustParseAddr("2001:db8:2::5")
	authPeer   = netip.MustParseAddr("2001:db8:5::2")
)

// authKey is Kbm of the tokens 0102030405060708 and 1112131415161718.
func authKey() []byte {
	return BindingKey([8]byte{1, 2, 3, 4, 5, 6, 7, 8}, [8]byte{0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18})
}

// TestKeygenTokens compares with values that another implementation of HMAC and SHA-1 computed.
func TestKeygenTokens(t *testing.T) {
	kcn := make([]byte, NodeKeyLen)
	for i := range kcn {
		kcn[i] = byte(i)
	}
	nonce := []byte{0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7}
	for _, c := range []struct {
		what string
		got  []byte
		want string
	}{
		{"home keygen token", bytesOf(KeygenToken(kcn, nonce, authHome, false)), "a0e8498e964263cb"},
		{"care-of keygen token", bytesOf(KeygenToken(kcn, nonce, authCareOf, true)), "71047bdd2970b183"},
		{"Kbm", authKey(), "cedf8515311913c2601bc6aa86a92ddf2601d97e"},
		{"Kbm of a deregistration", DeregistrationKey([8]byte{1, 2, 3, 4, 5, 6, 7, 8}), "dd5783bcf1e9002bc00ad5b83a95ed6e4ebb4ad5"},
	} {
		if hex.EncodeToString(c.got) != c.want {
			t.Errorf("%s %x, want %s", c.what, c.got, c.want)
		}
	}
	if KeygenToken(kcn, nonce, authHome, true) == KeygenToken(kcn, nonce, authHome, false) {
		t.Error("home and care-of keygen token of one address are the same")
	}
	spec.Covers(t, "RFC6275-5.2.5")
}

func bytesOf(token [TokenLen]byte) []byte { return token[:] }

// TestAuthorized writes both messages octet for octet; other options keep their place before the padding.
func TestAuthorized(t *testing.T) {
	for _, c := range []struct {
		name string
		m    Message
		n    *NonceIndices
		hex  string
	}{
		{"Binding Update", &BindingUpdate{Sequence: 7, Flags: BUAck, Lifetime: 105}, &NonceIndices{3, 4},
			"3b 03 05 00 0000 0007 8000 0069 04 04 0003 0004 05 0c 07ed4e7fcbfa6c2d8a105d23"},
		{"Binding Acknowledgement", &BindingAck{Sequence: 7, Lifetime: 105}, nil,
			"3b 03 06 00 0000 00 00 0007 0069 01 04 00000000 05 0c ce71ea62e0526b1e67a979bf"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := &Authorized{Message: c.m, Nonces: c.n, Key: authKey(), CareOf: authCareOf, Peer: authPeer}
			b, err := Append([]byte("before"), m, authHome, authPeer)
			b, ok := bytes.CutPrefix(b, []byte("before"))
			if err != nil || !ok {
				t.Fatal(err, ok)
			}
			zeroed := bytes.Clone(b)
			zeroed[4], zeroed[5] = 0, 0
			if !bytes.Equal(zeroed, unhex(t, c.hex)) {
				t.Errorf("written %x\n   want %x", zeroed, unhex(t, c.hex))
			}
			if _, err := Parse(b, authHome, authPeer); err != nil {
				t.Error(err)
			}
			if err := VerifyAuthorization(b, authKey(), authCareOf, authPeer); err != nil {
				t.Error(err)
			}
			if len(c.m.GetOptions()) != 0 {
				t.Error("the message's own options changed")
			}
		})
	}
	spec.Covers(t, "RFC6275-6.2.7")
}

// TestAuthorizedOptions: the option is the last one, without padding behind it, whatever stands before it.
func TestAuthorizedOptions(t *testing.T) {
	for n := range 24 {
		o := Options(nil)
		if n > 0 {
			o = o.Add(RawOption{200, make([]byte, n-1)})
		}
		o = o.Add(AlternateCareOf{authCareOf})
		m := &Authorized{Message: &BindingUpdate{Sequence: 1, Options: o}, Nonces: &NonceIndices{1, 2}, Key: authKey(), CareOf: authCareOf, Peer: authPeer}
		b, err := Append(nil, m, authHome, authPeer)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Parse(b, authHome, authPeer)
		if err != nil {
			t.Fatal(err)
		}
		if v, ok := got.GetOptions().NonceIndices(); !ok || v != (NonceIndices{1, 2}) || len(b)%8 != 0 || !bytes.Equal(b[len(b)-14:len(b)-12], []byte{5, 12}) {
			t.Errorf("%d: %x", n, b)
		}
		if err := VerifyAuthorization(b, authKey(), authCareOf, authPeer); err != nil {
			t.Error(n, err)
		}
	}
}

// TestAuthorizationCovers: no bit of message, addresses or key can change, but for the checksum, which counts as zero.
func TestAuthorizationCovers(t *testing.T) {
	m := &Authorized{Message: &BindingUpdate{Sequence: 7, Flags: BUAck, Lifetime: 105}, Nonces: &NonceIndices{3, 4}, Key: authKey(), CareOf: authCareOf, Peer: authPeer}
	b, err := Append(nil, m, authHome, authPeer)
	if err != nil {
		t.Fatal(err)
	}
	for i := range len(b) * 8 {
		at := i / 8
		if at == 2 || at == len(b)-14 || at == len(b)-13 {
			continue // another type, another option: refused for that
		}
		bad := bytes.Clone(b)
		bad[at] ^= 1 << (i % 8)
		err := VerifyAuthorization(bad, authKey(), authCareOf, authPeer)
		if checksum := at == 4 || at == 5; checksum != (err == nil) {
			t.Errorf("bit %d of octet %d changed: %v", i%8, at, err)
		}
	}
	for name, err := range map[string]error{
		"another key":            VerifyAuthorization(b, DeregistrationKey([8]byte{1}), authCareOf, authPeer),
		"another care-of":        VerifyAuthorization(b, authKey(), authHome, authPeer),
		"another correspondent":  VerifyAuthorization(b, authKey(), authCareOf, authHome),
		"addresses in disorder":  VerifyAuthorization(b, authKey(), authPeer, authCareOf),
		"a key that is too long": VerifyAuthorization(b, append(authKey(), 1), authCareOf, authPeer),
	} {
		if !errors.Is(err, wire.AuthFailed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAuthorizationRefused(t *testing.T) {
	for _, c := range []struct {
		name, hex string
		want      wire.Reason
	}{
		{"empty", "", wire.Truncated},
		{"no option", "3b 01 05 00 0000 0001 8000 0001 01 02 0000", wire.MissingAuthorization},
		{"another option behind", "3b 03 05 00 0000 0001 8000 0001 05 0c 000000000000000000000000 04 04 0001 0002", wire.MissingAuthorization},
		{"16 octets", "3b 03 05 00 0000 0001 8000 0001 01 00 05 10 00000000000000000000000000000000", wire.BadOptionLength},
		{"8 octets", "3b 02 05 00 0000 0001 8000 0001 01 00 05 08 0000000000000000", wire.BadOptionLength},
		{"option beyond the end", "3b 01 05 00 0000 0001 8000 0001 05 0c 0000", wire.BadOptionLength},
		{"unknown type", "3b 01 63 00 0000 0001 8000 0001 05 02 0000", wire.BadLength},
		{"shorter than its type", "3b 00 05 00 0000 0001", wire.BadLength},
	} {
		if err := VerifyAuthorization(unhex(t, c.hex), authKey(), authCareOf, authPeer); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	whole := unhex(t, "3b 03 05 00 0000 0007 8000 0069 04 04 0003 0004 05 0c 07ed4e7fcbfa6c2d8a105d23")
	for name, err := range map[string]error{
		"no key":      VerifyAuthorization(whole, nil, authCareOf, authPeer),
		"no care-of":  VerifyAuthorization(whole, authKey(), netip.Addr{}, authPeer),
		"an IPv4 one": VerifyAuthorization(whole, authKey(), authCareOf, netip.MustParseAddr("192.0.2.1")),
	} {
		if !errors.Is(err, wire.BadValue) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, m := range map[string]*Authorized{
		"no message":      {Key: authKey(), CareOf: authCareOf, Peer: authPeer},
		"no key":          {Message: &BindingAck{}, CareOf: authCareOf, Peer: authPeer},
		"no care-of":      {Message: &BindingAck{}, Key: authKey(), Peer: authPeer},
		"no peer":         {Message: &BindingAck{}, Key: authKey(), CareOf: authCareOf},
		"option twice":    {Message: &BindingAck{Options: Options(nil).Add(BindingAuthorization{make([]byte, 12)})}, Key: authKey(), CareOf: authCareOf, Peer: authPeer},
		"nonces twice":    {Message: &BindingUpdate{Options: Options(nil).Add(NonceIndices{1, 2})}, Nonces: &NonceIndices{1, 2}, Key: authKey(), CareOf: authCareOf, Peer: authPeer},
		"longer than all": {Message: &BindingUpdate{Options: make(Options, maxLength-12)}, Key: authKey(), CareOf: authCareOf, Peer: authPeer},
	} {
		if b, err := Append([]byte("before"), m, authHome, authPeer); err == nil || string(b) != "before" {
			t.Errorf("%s: %x %v", name, b, err)
		}
	}
}

// TestKeyStaysSecret: nobody who prints or stores the message gets the key.
func TestKeyStaysSecret(t *testing.T) {
	m := &Authorized{Message: &BindingUpdate{}, Key: []byte("a secret"), CareOf: authCareOf, Peer: authPeer}
	j, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{string(j), fmt.Sprint(m), fmt.Sprintf("%v %+v %s", m, m, m)} {
		if strings.Contains(s, "secret") || strings.Contains(s, "YSBzZWNyZXQ") || strings.Contains(s, "97 32 115") {
			t.Errorf("%s has the key", s)
		}
	}
}

// TestUMIPAuthorization checks every authenticator that UMIP's mobile node and correspondent made, with the tokens that the
// correspondent gave away in the same capture, and makes the same ones.
func TestUMIPAuthorization(t *testing.T) {
	type test struct {
		careOf bool
		index  uint16
	}
	tokens := make(map[test][TokenLen]byte)
	var careOf netip.Addr
	var key []byte
	count := map[Type]int{}
	for _, mh := range testpcap.MobilityHeaders(t, vectors+"umip-ro-all.pcap") {
		m, err := Parse(mh.Bytes, mh.Src, mh.Dst)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := m.(*Test); ok {
			if tokens[test{got.CareOf, got.NonceIndex}] = got.Token; got.CareOf {
				careOf = mh.Dst
			}
			continue
		}
		if !m.GetOptions().Has(OptBindingAuthorization) {
			continue // to and from the home agent
		}
		again := &Authorized{Message: m, Peer: mh.Src}
		stripped := Options(nil)
		for v := range m.GetOptions().Values() {
			if _, ok := v.(BindingAuthorization); !ok {
				stripped = stripped.Add(v)
			}
		}
		switch m := m.(type) {
		case *BindingUpdate:
			again.Peer = mh.Dst
			n, ok := m.Options.NonceIndices()
			if home, found := tokens[test{false, n.Home}]; !ok || !found {
				t.Fatalf("frame %d: nonce indices %v %v", mh.Frame, n, ok)
			} else if key, again.CareOf = BindingKey(home, tokens[test{true, n.CareOf}]), careOf; m.Lifetime == 0 {
				key, again.CareOf = DeregistrationKey(home), mh.Src
			}
			bu := *m
			bu.Options = stripped
			again.Message = &bu
		case *BindingAck:
			if again.CareOf = careOf; m.Lifetime == 0 {
				again.CareOf = mh.Dst
			}
			ba := *m
			ba.Options = stripped
			again.Message = &ba
		}
		again.Key = key
		if err := VerifyAuthorization(mh.Bytes, key, again.CareOf, again.Peer); err != nil {
			t.Errorf("frame %d: %v", mh.Frame, err)
		}
		if b, err := Append(nil, again, mh.Src, mh.Dst); err != nil || !bytes.Equal(b, mh.Bytes) {
			t.Errorf("frame %d: %v %v\nread    %x\nwritten %x", mh.Frame, m.Type(), err, mh.Bytes, b)
		}
		count[m.Type()]++
	}
	if count[TypeBindingUpdate] < 3 || count[TypeBindingAck] < 2 {
		t.Errorf("authenticators seen: %v", count)
	}
	spec.Covers(t, "RFC6275-5.2.6")
}

// FuzzVerifyAuthorization: whatever the octets, no panic, only errors of package wire, and nothing is taken that was not
// made with the key.
func FuzzVerifyAuthorization(f *testing.F) {
	made := &Authorized{Message: &BindingUpdate{Sequence: 7, Flags: BUAck, Lifetime: 105}, Nonces: &NonceIndices{3, 4}, Key: authKey(), CareOf: authCareOf, Peer: authPeer}
	b, err := Append(nil, made, authHome, authPeer)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	for _, mh := range captured(f) {
		f.Add(slices.Clone(mh.Bytes))
	}
	good := bytes.Clone(b)
	good[4], good[5] = 0, 0
	f.Fuzz(func(t *testing.T, raw []byte) {
		kept := bytes.Clone(raw)
		err := VerifyAuthorization(raw, authKey(), authCareOf, authPeer)
		if !bytes.Equal(kept, raw) {
			t.Error("the message was changed")
		}
		if err == nil {
			if raw[4], raw[5] = 0, 0; !bytes.Equal(raw, good) {
				t.Errorf("%x is taken", raw)
			}
			return
		}
		var known *wire.Error
		if !errors.As(err, &known) {
			t.Errorf("%v is no *wire.Error", err)
		}
	})
}
