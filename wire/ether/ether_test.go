package ether

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"kedge/internal/testpcap"
	"kedge/wire"
)

var request = ARP{
	Op: ARPRequest, SenderHW: [6]byte{2, 0, 0, 0, 0, 1}, SenderIP: netip.MustParseAddr("10.20.0.10"),
	TargetIP: netip.MustParseAddr("10.20.0.1"),
}

func TestHeader(t *testing.T) {
	h := Header{Dst: Broadcast, Src: [6]byte{2, 0, 0, 0, 0, 1}, Type: TypeARP}
	got, rest, err := ParseHeader(append(h.Append(nil), 7))
	if err != nil || got != h || !bytes.Equal(rest, []byte{7}) {
		t.Fatalf("got %v %v %v", got, rest, err)
	}
	if _, _, err := ParseHeader(make([]byte, 13)); !errors.Is(err, wire.Truncated) {
		t.Errorf("13 octets: %v", err)
	}
}

func TestARP(t *testing.T) {
	good, err := request.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	change := func(at int, v byte) []byte {
		b := bytes.Clone(good)
		b[at] = v
		return b
	}
	for _, c := range []struct {
		name string
		b    []byte
		want error
		off  int
	}{
		{name: "request", b: good},
		{name: "with padding", b: append(bytes.Clone(good), make([]byte, 18)...)},
		{name: "empty", want: wire.Truncated},
		{name: "cut", b: good[:27], want: wire.Truncated, off: 27},
		{name: "hardware type", b: change(1, 6), want: wire.BadValue},
		{name: "protocol type", b: change(3, 1), want: wire.BadValue, off: 2},
		{name: "hardware length", b: change(4, 8), want: wire.BadLength, off: 4},
		{name: "protocol length", b: change(5, 16), want: wire.BadLength, off: 4},
		{name: "reverse ARP", b: change(7, 3), want: wire.UnknownType, off: 6},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, err := ParseARP(c.b)
			if c.want == nil {
				if err != nil || *a != request {
					t.Fatalf("got %+v, %v", a, err)
				}
				return
			}
			var e *wire.Error
			if !errors.Is(err, c.want) || !errors.As(err, &e) || e.Off != c.off {
				t.Errorf("got %v, want %v at %d", err, c.want, c.off)
			}
		})
	}
}

func TestARPKinds(t *testing.T) {
	me, other, none := netip.MustParseAddr("10.20.0.10"), netip.MustParseAddr("10.20.0.1"), netip.IPv4Unspecified()
	for _, c := range []struct {
		name                string
		a                   ARP
		probe, announcement bool
	}{
		{"request", ARP{Op: ARPRequest, SenderIP: me, TargetIP: other}, false, false},
		{"probe", ARP{Op: ARPRequest, SenderIP: none, TargetIP: me}, true, false},
		{"announcement", ARP{Op: ARPRequest, SenderIP: me, TargetIP: me}, false, true},
		{"gratuitous reply", ARP{Op: ARPReply, SenderIP: me, TargetIP: me}, false, true},
		{"reply", ARP{Op: ARPReply, SenderIP: me, TargetIP: other}, false, false},
	} {
		if c.a.IsProbe() != c.probe || c.a.IsAnnouncement() != c.announcement {
			t.Errorf("%s: probe %v, announcement %v", c.name, c.a.IsProbe(), c.a.IsAnnouncement())
		}
	}
}

func TestARPAppendRefuses(t *testing.T) {
	v6 := netip.MustParseAddr("2001:db8::1")
	for _, a := range []ARP{{SenderIP: v6, TargetIP: request.TargetIP}, {SenderIP: request.SenderIP}} {
		if b, err := a.Append([]byte{1}); !errors.Is(err, wire.BadValue) || len(b) != 1 {
			t.Errorf("%+v: %v, %v", a, b, err)
		}
	}
}

func FuzzARP(f *testing.F) {
	good, _ := request.Append(nil)
	f.Add(good)
	f.Add(append(bytes.Clone(good), 1, 2, 3))
	for _, p := range testpcap.Read(f, "../../testdata/vectors/access-clients.pcap") {
		if h, rest, err := ParseHeader(p); err == nil && h.Type == TypeARP {
			f.Add(rest)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ParseARP(b)
		if err != nil {
			return
		}
		again, err := a.Append(nil)
		if err != nil || !bytes.Equal(again, b[:len(again)]) {
			t.Fatalf("%x became %x, %v", b, again, err)
		}
		c, err := ParseARP(again)
		if d := cmp.Diff(a, c, cmpopts.EquateComparable(netip.Addr{})); err != nil || d != "" {
			t.Fatal(d, err)
		}
	})
}
