package mobility

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"

	"kedge/wire"
)

var (
	magAddr = netip.MustParseAddr("2001:db8:f::1")
	lmaAddr = netip.MustParseAddr("2001:db8:a::1")
)

func TestHeaderRefused(t *testing.T) {
	good := option(t, "17 02 00 01")
	header := func(field string, off int, r wire.Reason) wire.Error {
		return wire.Error{Msg: "Mobility Header", Field: field, Off: off, RFC: "RFC 6275 6.1.1", Reason: r}
	}
	problem := func(msg, field string, off int, r wire.Reason) wire.Error {
		return wire.Error{Msg: msg, Field: field, Off: off, RFC: "RFC 6275 9.2", Reason: r, ParameterProblem: true}
	}
	edit := func(b []byte, i int, v byte) []byte {
		b = bytes.Clone(b)
		b[i] = v
		return b
	}
	protocol := seal(edit(good, 0, 41))
	badSum := edit(good, 5, good[5]+1)
	// A BRR is a whole header of eight octets; for all others that is too short.
	var short []refused
	for typ, octets := range map[Type]int{TypeHomeTestInit: 8, TypeCareOfTestInit: 8, TypeHomeTest: 16, TypeCareOfTest: 16, TypeBindingUpdate: 8,
		TypeBindingAck: 8, TypeBindingError: 16, TypeHeartbeat: 8, TypeBindingRevocation: 8} {
		b := make([]byte, octets)
		b[0], b[2] = protocolNone, byte(typ)
		short = append(short, refused{typ.String(), seal(b), problem(typ.String(), "Header Len", 1, wire.BadLength)})
	}
	checkRefused(t, append(short,
		refused{"nothing", nil, header("header", 0, wire.Truncated)},
		refused{"7 octets", good[:7], header("header", 7, wire.Truncated)},
		refused{"cut", good[:8], header("Header Len", 1, wire.Truncated)},
		refused{"cut by one", good[:15], header("Header Len", 1, wire.Truncated)},
		refused{"over-long", append(bytes.Clone(good), 0), header("Header Len", 1, wire.BadLength)},
		refused{"over-long by a unit", append(bytes.Clone(good), 1, 6, 0, 0, 0, 0, 0, 0), header("Header Len", 1, wire.BadLength)},
		refused{"checksum", badSum, header("Checksum", 4, wire.BadChecksum)},
		refused{"payload proto", protocol, problem("Binding Update", "Payload Proto", 0, wire.BadPayloadProto)},
		refused{"unknown type", seal(edit(good, 2, 99)), wire.Error{Msg: "MH type 99", Field: "MH Type", Off: 2, RFC: "RFC 6275 9.2", Reason: wire.UnknownType, Status: 2}},
		// No answer to anything before the checksum is right.
		refused{"unknown type, bad checksum", edit(edit(good, 2, 99), 5, good[5]), header("Checksum", 4, wire.BadChecksum)},
		refused{"payload proto, bad checksum", edit(good, 0, 41), header("Checksum", 4, wire.BadChecksum)},
	))
}

// TestEveryBit changes each bit of a good message: the checksum or the length must notice.
func TestEveryBit(t *testing.T) {
	b, err := Append(nil, &BindingUpdate{Sequence: 7, Flags: BUAck | BUProxy, Lifetime: 900, Options: proxyOptions()}, magAddr, lmaAddr)
	if err != nil {
		t.Fatal(err)
	}
	for i := range len(b) * 8 {
		b[i/8] ^= 1 << (i % 8)
		if m, err := Parse(b, magAddr, lmaAddr); !errors.Is(err, wire.BadChecksum) && !errors.Is(err, wire.BadLength) && !errors.Is(err, wire.Truncated) {
			t.Errorf("bit %d changed: %v, %v", i, m, err)
		}
		b[i/8] ^= 1 << (i % 8)
	}
	for n := range len(b) {
		if _, err := Parse(b[:n], magAddr, lmaAddr); !errors.Is(err, wire.Truncated) {
			t.Errorf("%d octets of %d: %v", n, len(b), err)
		}
	}
}

// TestPseudoHeader holds that both addresses are covered.
func TestPseudoHeader(t *testing.T) {
	b, err := Append(nil, &Heartbeat{Sequence: 1}, magAddr, lmaAddr)
	if err != nil {
		t.Fatal(err)
	}
	other := netip.MustParseAddr("2001:db8:f::2")
	for _, c := range []struct {
		src, dst netip.Addr
		ok       bool
	}{{magAddr, lmaAddr, true}, {other, lmaAddr, false}, {magAddr, other, false}, {netip.Addr{}, netip.Addr{}, false}} {
		if _, err := Parse(b, c.src, c.dst); c.ok != (err == nil) || !c.ok && !errors.Is(err, wire.BadChecksum) {
			t.Errorf("%v -> %v: %v", c.src, c.dst, err)
		}
	}
}

// TestChecksumAllOnes reads a message whose checksum field is 0xffff: it stands for zero as 0x0000 does.
func TestChecksumAllOnes(t *testing.T) {
	for seq := range uint32(1 << 17) {
		b, err := Append(nil, &Heartbeat{Sequence: seq}, magAddr, lmaAddr)
		if err != nil {
			t.Fatal(err)
		}
		if b[4] == 0 && b[5] == 0 {
			b[4], b[5] = 0xff, 0xff
			if _, err := Parse(b, magAddr, lmaAddr); err != nil {
				t.Error(err)
			}
			return
		}
	}
	t.Fatal("no sequence number gives the checksum 0")
}

func TestAppendLimits(t *testing.T) {
	if b, err := Append([]byte{1}, nil, magAddr, lmaAddr); !errors.Is(err, wire.BadValue) || len(b) != 1 {
		t.Errorf("no message: %x, %v", b, err)
	}
	// The longest header has 2,048 octets: 2,036 of options in a Binding Update.
	for room, fits := range map[int]bool{2036: true, 2037: false, 5000: false} {
		o := Options{}
		for len(o) < room {
			o = appendPad(o, min(room-len(o), 257))
		}
		b, err := Append(nil, &BindingUpdate{Options: o}, magAddr, lmaAddr)
		if fits != (err == nil) || !fits && !errors.Is(err, wire.TooLong) {
			t.Errorf("%d octets: %v", room, err)
		}
		if fits {
			if m, err := Parse(b, magAddr, lmaAddr); err != nil || len(b) != maxLength || len(m.GetOptions()) != room {
				t.Errorf("%d octets: %d, %v", room, len(b), err)
			}
		}
	}
	if _, err := Append(nil, &BindingUpdate{Options: Options{8}}, magAddr, lmaAddr); !errors.Is(err, wire.BadOptionLength) {
		t.Errorf("cut option: %v", err)
	}
}

// TestError reads as an operator sees it.
func TestError(t *testing.T) {
	_, err := Parse(option(t, "16 12 00 81 20010db8000100020000000000000000"), magAddr, lmaAddr)
	if want := "Binding Update: Home Network Prefix option at octet 12: bad-prefix-length (RFC 5213 8.3)"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

// TestParseAliases holds what the package's comment says: options are the buffer's, and Clone is not.
func TestParseAliases(t *testing.T) {
	b := option(t, "17 02 00 01")
	m, err := Parse(b, magAddr, lmaAddr)
	if err != nil {
		t.Fatal(err)
	}
	kept := m.GetOptions().Clone()
	b[15] = 5
	now, _ := m.GetOptions().HandoffIndicator()
	then, _ := kept.HandoffIndicator()
	if now.Value != 5 || then.Value != 1 {
		t.Errorf("aliased %v, cloned %v", now, then)
	}
	if longer := m.GetOptions().Add(AccessTechnology{3}); &longer[0] == &b[12] {
		t.Error("Add wrote behind a parsed message's end")
	}
}
