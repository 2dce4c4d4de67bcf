package mobility

import "encoding/binary"

// VendorSpecific is a vendor's own option, RFC 5094 3. Read, Data aliases the message.
type VendorSpecific struct {
	Vendor  uint32 // private enterprise number
	Subtype uint8
	Data    []byte
}

func (VendorSpecific) OptionType() OptionType { return OptVendorSpecific }

func (v VendorSpecific) appendTLV(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(append(b, byte(OptVendorSpecific), byte(5+len(v.Data))), v.Vendor)
	return append(append(b, v.Subtype), v.Data...)
}

func decodeVendorSpecific(o Option) VendorSpecific {
	return VendorSpecific{Vendor: binary.BigEndian.Uint32(o.Data), Subtype: o.Data[4], Data: o.Data[5:]}
}

// VendorSpecific reads the first such option.
func (o Options) VendorSpecific() (VendorSpecific, bool) {
	return read(o, OptVendorSpecific, decodeVendorSpecific)
}
