package mobility

import "encoding/binary"

// Heartbeat is type 13, RFC 5847 3.3. Response is the R flag, Unsolicited the U flag.
type Heartbeat struct {
	Unsolicited bool // U
	Response    bool // R
	Sequence    uint32
	Options     Options
}

// Flags of the 16-bit word after the checksum, RFC 5847 3.3.
const (
	heartbeatUnsolicited = 0x0002
	heartbeatResponse    = 0x0001
)

func (*Heartbeat) Type() Type            { return TypeHeartbeat }
func (m *Heartbeat) GetOptions() Options { return m.Options }
func (*Heartbeat) fixed() int            { return 12 }

func parseHeartbeat(h []byte, o Options) *Heartbeat {
	return &Heartbeat{
		Unsolicited: h[7]&heartbeatUnsolicited != 0,
		Response:    h[7]&heartbeatResponse != 0,
		Sequence:    binary.BigEndian.Uint32(h[8:]),
		Options:     o,
	}
}

func (m *Heartbeat) appendBody(b []byte) []byte {
	b = append(b, 0, b2u(m.Unsolicited)*heartbeatUnsolicited|b2u(m.Response)*heartbeatResponse)
	return binary.BigEndian.AppendUint32(b, m.Sequence)
}

func b2u(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}
