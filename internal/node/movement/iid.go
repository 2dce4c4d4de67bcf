package movement

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"

	"kedge/internal/core"
)

// idgenRetries is IDGEN_RETRIES of RFC 7217 7: identifiers that are tried after the first turned out to be a duplicate.
const idgenRetries = 3

// stable is the address of RFC 7217 5 for a prefix of 64 bits: always the same for the same prefix, interface, counter and
// secret, and telling nothing about the node in another prefix. Net_Iface is the MAC address, which outlives a renaming;
// there is no Network_ID. The function is HMAC-SHA256.
func stable(secret []byte, p netip.Prefix, mac core.MAC, counter uint8) netip.Addr {
	net := p.Addr().As16()
	for round := uint32(0); ; round++ {
		h := hmac.New(sha256.New, secret)
		h.Write(net[:8])
		h.Write(mac[:])
		h.Write([]byte{counter})
		if round > 0 { // next to never: the identifier was a reserved one
			var b [4]byte
			binary.BigEndian.PutUint32(b[:], round)
			h.Write(b[:])
		}
		a := net
		copy(a[8:], h.Sum(nil)[:8])
		if !reserved([8]byte(a[8:])) {
			return netip.AddrFrom16(a)
		}
	}
}

// reserved identifiers are those of RFC 5453: the subnet router's anycast address, reserved anycast addresses, and those of
// the IANA Ethernet block, Proxy Mobile IPv6 among them.
func reserved(iid [8]byte) bool {
	return iid == [8]byte{} ||
		bytes.HasPrefix(iid[:], []byte{0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}) && iid[7] >= 0x80 ||
		bytes.HasPrefix(iid[:], []byte{0x02, 0x00, 0x5e, 0xff, 0xfe})
}
