package mobility

import "testing"

func TestHeartbeat(t *testing.T) {
	checkWritten(t, []written{
		{"request", &Heartbeat{Sequence: 0x01020304}, "3b 01 0d 00 0000 0000 01020304 01 02 00 00"},
		{"response", &Heartbeat{Response: true, Sequence: 0xffffffff, Options: Options(nil).Add(RestartCounter{0x0a0b0c0d})},
			"3b 02 0d 00 0000 0001 ffffffff 01 00 1c 04 0a0b0c0d 01 02 00 00"},
		{"unsolicited", &Heartbeat{Unsolicited: true, Response: true}, "3b 01 0d 00 0000 0003 00000000 01 02 00 00"},
	})
}

func TestHeartbeatIgnoresReservedBits(t *testing.T) {
	m, err := Parse(sealed(t, "3b 00 0d 00 0000 fffd 00000007 01 02 00 00"), magAddr, lmaAddr)
	if hb, ok := m.(*Heartbeat); err != nil || !ok || hb.Unsolicited || !hb.Response || hb.Sequence != 7 {
		t.Errorf("%+v, %v", m, err)
	}
}
