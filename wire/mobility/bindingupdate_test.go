package mobility

import "testing"

func TestBindingUpdate(t *testing.T) {
	checkWritten(t, []written{
		{"no options", &BindingUpdate{Sequence: 0x1234, Flags: BUAck | BUProxy, Lifetime: 0x0384}, "3b 01 05 00 0000 1234 8200 0384 01 02 00 00"},
		{"all flags", &BindingUpdate{Sequence: 0xffff, Flags: BUKnownFlags, Lifetime: 0xffff}, "3b 01 05 00 0000 ffff ffc0 ffff 01 02 00 00"},
		{"final Pad1", &BindingUpdate{Options: Options(nil).Add(MobileNodeID{SubtypeNAI, ""})}, "3b 01 05 00 0000 0000 0000 0000 08 01 01 00"},
		{"no final padding", &BindingUpdate{Options: Options(nil).Add(HandoffIndicator{1})}, "3b 01 05 00 0000 0000 0000 0000 17 02 00 01"},
	})
}

func TestBindingUpdateIgnoresReservedBits(t *testing.T) {
	m, err := Parse(sealed(t, "3b 00 05 ff 0000 0001 803f 0002 01 02 ff ff"), magAddr, lmaAddr)
	if bu, ok := m.(*BindingUpdate); err != nil || !ok || bu.Flags != BUAck || bu.Sequence != 1 || bu.Lifetime != 2 {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestBUFlagsString(t *testing.T) {
	for f, want := range map[BUFlags]string{0: "", BUAck | BUProxy: "AP", BUKnownFlags: "AHLKMRPFTB", 0xffff: "AHLKMRPFTB"} {
		if got := f.String(); got != want {
			t.Errorf("%#x: %q, want %q", uint16(f), got, want)
		}
	}
}

func TestNewer(t *testing.T) {
	for _, c := range []struct {
		seq, last uint16
		want      bool
	}{
		{15, 15, false}, {16, 15, true}, {14, 15, false}, {0, 65535, true}, {65535, 0, false}, {65535, 65535, false},
		{32767, 0, true}, {32768, 0, false}, {32769, 0, false}, {0, 32768, false}, {0, 32769, true},
	} {
		if got := Newer(c.seq, c.last); got != c.want {
			t.Errorf("%d after %d: %v", c.seq, c.last, got)
		}
	}
	// RFC 6275 9.5.1: "if the last received sequence number was 15, then messages with sequence numbers 0 through 15, as well as
	// 32783 through 65535, would be considered less than or equal".
	for seq := range 1 << 16 {
		if got, want := Newer(uint16(seq), 15), seq > 15 && seq < 32783; got != want {
			t.Fatalf("%d after 15: %v", seq, got)
		}
	}
}
