package mobility

// MobileNodeID identifies the mobile node, RFC 4283 3. An anchor that misses the option answers status 160 with a
// zero-length ID (RFC 5213 5.3.6).
type MobileNodeID struct {
	Subtype uint8 // SubtypeNAI
	ID      string
}

// SubtypeNAI is a Network Access Identifier, RFC 4283 3.1.
const SubtypeNAI uint8 = 1

func (MobileNodeID) OptionType() OptionType { return OptMobileNodeID }

func (v MobileNodeID) appendTLV(b []byte) []byte {
	return append(append(b, byte(OptMobileNodeID), byte(1+len(v.ID)), v.Subtype), v.ID...)
}

func decodeMobileNodeID(o Option) MobileNodeID {
	return MobileNodeID{Subtype: o.Data[0], ID: string(o.Data[1:])}
}

// MobileNodeID reads the first such option. It allocates the ID; MobileNodeIDBytes does not.
func (o Options) MobileNodeID() (MobileNodeID, bool) {
	return read(o, OptMobileNodeID, decodeMobileNodeID)
}

// MobileNodeIDBytes reads the first such option without a copy: id aliases o. A map lookup by string(id) allocates nothing.
func (o Options) MobileNodeIDBytes() (subtype uint8, id []byte, ok bool) {
	opt, ok := o.first(OptMobileNodeID)
	if !ok {
		return 0, nil, false
	}
	return opt.Data[0], opt.Data[1:], true
}
