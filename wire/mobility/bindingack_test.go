package mobility

import "testing"

func TestBindingAck(t *testing.T) {
	checkWritten(t, []written{
		{"no options", &BindingAck{Status: Accepted, Flags: BAProxy, Sequence: 0x1234, Lifetime: 0x0384}, "3b 01 06 00 0000 00 20 1234 0384 01 02 00 00"},
		{"refused, all flags", &BindingAck{Status: MultipleIPv4HoANotSupported, Flags: BAKnownFlags, Sequence: 1}, "3b 01 06 00 0000 ad f8 0001 0000 01 02 00 00"},
	})
}

func TestBindingAckIgnoresReservedBits(t *testing.T) {
	m, err := Parse(sealed(t, "3b 00 06 ff 0000 82 27 0001 0002 00 00 00 00"), magAddr, lmaAddr)
	if ba, ok := m.(*BindingAck); err != nil || !ok || ba.Flags != BAProxy || ba.Status != InsufficientResources {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestBAFlagsString(t *testing.T) {
	for f, want := range map[BAFlags]string{0: "", BAProxy: "P", BAKnownFlags: "KRPTB", 0xff: "KRPTB"} {
		if got := f.String(); got != want {
			t.Errorf("%#x: %q, want %q", uint8(f), got, want)
		}
	}
}
