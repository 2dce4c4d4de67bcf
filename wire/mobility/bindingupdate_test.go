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
