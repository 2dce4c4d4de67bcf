package mobility

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"kedge/wire"
)

// written is one message and its octets in hex, spaces free, the checksum as zero.
type written struct {
	name string
	m    Message
	hex  string
}

// checkWritten writes each message octet for octet, and reads it back to the same value, with the final padding that
// Append made.
func checkWritten(t *testing.T, cases []written) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, err := Append([]byte("before"), c.m, magAddr, lmaAddr)
			if err != nil {
				t.Fatal(err)
			}
			got, ok := bytes.CutPrefix(got, []byte("before"))
			if !ok {
				t.Fatal("Append wrote over what was there")
			}
			if plainSum(got) != 0xffff {
				t.Errorf("checksum %#x is wrong", got[4:6])
			}
			zeroed := bytes.Clone(got)
			zeroed[4], zeroed[5] = 0, 0
			if want := unhex(t, c.hex); !bytes.Equal(zeroed, want) {
				t.Errorf("written\n%x, want\n%x", zeroed, want)
			}
			back, err := Parse(got, magAddr, lmaAddr)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(values(c.m), values(back), equal); d != "" {
				t.Errorf("options (-written +read):\n%s", d)
			}
			if d := cmp.Diff(c.m, back, ignoreOptions, equal); d != "" {
				t.Errorf("message (-written +read):\n%s", d)
			}
		})
	}
}

var ignoreOptions = cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".Options" }, cmp.Ignore())

// equal compares values: addresses by ==, no octets and nil alike.
var equal = cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.EquateEmpty()}

func values(m Message) []Value { return slices.Collect(m.GetOptions().Values()) }

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// plainSum is the one's complement sum as RFC 1071 words it, for magAddr and lmaAddr.
func plainSum(mh []byte) uint16 {
	s, d := magAddr.As16(), lmaAddr.As16()
	b := append(append(append([]byte{}, s[:]...), d[:]...), 0, 0, byte(len(mh)>>8), byte(len(mh)), 0, 0, 0, 135)
	var n uint32
	for b = append(b, mh...); len(b) > 0; b = b[2:] {
		n += uint32(binary.BigEndian.Uint16(b))
		n = n&0xffff + n>>16
	}
	return uint16(n)
}

// sealed makes a Mobility Header of octets: its length and checksum become right.
func sealed(t testing.TB, s string) []byte {
	t.Helper()
	return seal(unhex(t, s))
}

func seal(b []byte) []byte {
	b[1] = byte(len(b)/8 - 1)
	b[4], b[5] = 0, 0
	binary.BigEndian.PutUint16(b[4:], ^plainSum(b))
	return b
}

// refused is what Parse must say of bad octets.
type refused struct {
	name string
	b    []byte
	want wire.Error // Err is not compared
}

func checkRefused(t *testing.T, cases []refused) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			m, err := Parse(c.b, magAddr, lmaAddr)
			var got *wire.Error
			if !errors.As(err, &got) {
				t.Fatalf("Parse gives %v, %v; want an error", m, err)
			}
			if _, raw := m.(*Raw); m != nil && !raw {
				t.Errorf("Parse gives %v besides the error", m)
			}
			e := *got
			e.Err = nil
			if d := cmp.Diff(c.want, e); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			if !errors.Is(err, c.want.Reason) {
				t.Errorf("%v is not %v", err, c.want.Reason)
			}
		})
	}
}

// added is a list of values and its octets in a Binding Update (the area starts at octet 12).
type added struct {
	values []Value
	hex    string
}

// checkAdded adds the values, octet for octet, and reads them back.
func checkAdded(t *testing.T, cases ...added) {
	t.Helper()
	for _, c := range cases {
		o := Options(nil).Add(c.values...)
		if want := unhex(t, c.hex); !bytes.Equal(o, want) {
			t.Errorf("%#v\nadded %x, want\n      %x", c.values, []byte(o), want)
		}
		if e := o.check(baseUpdate); e != nil {
			t.Errorf("%#v: %v", c.values, e)
		}
		if d := cmp.Diff(c.values, slices.Collect(o.Values()), equal); d != "" {
			t.Errorf("(-added +read):\n%s", d)
		}
	}
}

// option makes a Binding Update with these octets as options, padded.
func option(t testing.TB, s string) []byte {
	t.Helper()
	o := unhex(t, s)
	b := append(unhex(t, "3b 00 05 00 0000 0001 8000 0001"), o...)
	return seal(appendPad(b, -len(b)&7))
}

// badOption is refused because of the one option at octet 12.
func badOption(t *testing.T, name, hex, field, rfc string, r wire.Reason) refused {
	t.Helper()
	return refused{name, option(t, hex), wire.Error{Msg: "Binding Update", Field: field + " option", Off: 12, RFC: rfc, Reason: r}}
}
