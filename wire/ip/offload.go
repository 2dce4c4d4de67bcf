package ip

import (
	"encoding/binary"
	"net/netip"
)

// Put writes the header into the first VNetLen octets of b. head is how many octets of headers lead what follows; offsets count
// from there as well.
func (v VNet) Put(b []byte, head int) {
	clear(b[:VNetLen])
	le := binary.LittleEndian
	if v.NeedsChecksum {
		b[0] = 1
		le.PutUint16(b[6:], uint16(v.CsumStart))
		le.PutUint16(b[8:], uint16(v.CsumOffset))
	}
	if v.Type != GSONone {
		b[1] = v.Type
		le.PutUint16(b[2:], uint16(head))
		le.PutUint16(b[4:], uint16(v.Size))
	}
}

// PartialChecksum is what the checksum field holds of an upper-layer packet of n octets that is left to the device: the sum of
// the pseudo header.
func PartialChecksum(src, dst netip.Addr, proto uint8, n int) uint16 {
	return fold(pseudo(src, dst, proto, n))
}
