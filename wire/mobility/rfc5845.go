package mobility

import "encoding/binary"

// GREKey negotiates GRE encapsulation, RFC 5845 6.1. NoKey is the Length 2 layout: GRE without keys.
type GREKey struct {
	Key   uint32
	NoKey bool
}

func (GREKey) OptionType() OptionType { return OptGREKey }

func (v GREKey) appendTLV(b []byte) []byte {
	if v.NoKey {
		return append(b, byte(OptGREKey), 2, 0, 0)
	}
	return binary.BigEndian.AppendUint32(append(b, byte(OptGREKey), 6, 0, 0), v.Key)
}

func decodeGREKey(o Option) GREKey {
	if len(o.Data) == 2 {
		return GREKey{NoKey: true}
	}
	return GREKey{Key: binary.BigEndian.Uint32(o.Data[2:])}
}

// GREKey reads the first such option.
func (o Options) GREKey() (GREKey, bool) { return read(o, OptGREKey, decodeGREKey) }
