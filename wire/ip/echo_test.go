package ip

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"

	"kedge/wire"
)

func TestEcho(t *testing.T) {
	a, b := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
	for _, reply := range []bool{false, true} {
		in := Echo{Reply: reply, ID: 0xabcd, Seq: 7, Data: []byte("kedge")}
		pkt := in.Append(nil, a, b)
		out, err := ParseEcho(pkt, a, b)
		if err != nil || out.Reply != reply || out.ID != in.ID || out.Seq != in.Seq || !bytes.Equal(out.Data, in.Data) {
			t.Fatalf("%+v became %+v, %v", in, out, err)
		}
	}
	good := (&Echo{ID: 1}).Append(nil, a, b)
	for _, c := range []struct {
		name string
		edit func([]byte) []byte
		want wire.Reason
	}{
		{"short", func(p []byte) []byte { return p[:7] }, wire.Truncated},
		{"type", func(p []byte) []byte { p[0] = 1; return p }, wire.UnknownType},
		{"code", func(p []byte) []byte { p[1] = 1; return p }, wire.BadValue},
		{"checksum", func(p []byte) []byte { p[2] ^= 1; return p }, wire.BadChecksum},
	} {
		if _, err := ParseEcho(c.edit(bytes.Clone(good)), a, b); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}
