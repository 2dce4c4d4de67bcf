package conformance

import (
	"bytes"

	"kedge/internal/ipsec"
)

// Handle is the security association of the encapsulations in ESP: AES-GCM with keys of 128 bits and an ICV of 16 octets (RFC 4106), without
// extended sequence numbers.
const Handle = 1

const (
	portESP = 4500 // RFC 3948
	// SPIs towards the anchor, and from it.
	spiUp, spiDown = ipsec.DataSPI | 0x101, ipsec.DataSPI | 0x102
	// SPI, sequence number, IV, ICV, the two octets of the trailer, and as much padding as there may be (RFC 4303 2.4).
	overheadESP = 4 + 4 + 8 + 16 + 2 + 3
)

// Key and salt of each direction (RFC 4106 8.1).
var keyUp, keyDown = bytes.Repeat([]byte{0xa1}, 20), bytes.Repeat([]byte{0xb2}, 20)

// Association is that of Handle, as one end of the tunnel has it.
func Association(belowAnchor bool) ipsec.DataSA {
	sa := ipsec.DataSA{Handle: Handle, Peer: "peer", SPIIn: spiUp, SPIOut: spiDown, Negotiated: true,
		Keys: ipsec.Keys{Suite: "aes128-gcm", In: ipsec.Half{Encryption: keyUp}, Out: ipsec.Half{Encryption: keyDown}}}
	if belowAnchor {
		sa.SPIIn, sa.SPIOut, sa.Keys = spiDown, spiUp, sa.Keys.Swapped()
	}
	return sa
}
