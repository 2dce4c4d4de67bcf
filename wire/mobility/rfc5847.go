package mobility

import "encoding/binary"

// RestartCounter counts how often the sender lost its sessions, RFC 5847 3.4.
type RestartCounter struct{ Value uint32 }

func (RestartCounter) OptionType() OptionType { return OptRestartCounter }

func (v RestartCounter) appendTLV(b []byte) []byte { return appendTLV32(b, OptRestartCounter, v.Value) }

func decodeRestartCounter(o Option) RestartCounter {
	return RestartCounter{binary.BigEndian.Uint32(o.Data)}
}

// RestartCounter reads the first such option.
func (o Options) RestartCounter() (RestartCounter, bool) {
	return read(o, OptRestartCounter, decodeRestartCounter)
}
