package mem

import (
	"net/netip"
	"time"
)

// Security seals and opens the data of sessions whose chain names a security association: ESP in tunnel mode (RFC 4303). It is
// called by many goroutines at once, with the engine's lock held for reading, and must not call the engine. It allocates nothing
// once its buffers have grown, refusals included.
//
// A handle stands for both directions of one layer of a session: SPIs, keys and the replay window (core.Layer.SA). 0 is none.
type Security interface {
	// Seal appends to dst the ESP packet around inner, from the SPI to the ICV, and returns dst extended. next is the protocol of
	// inner: ip.IPv4 or ip.IPv6. inner may lie in dst's array, before its length; it is not changed. On an error (unknown handle,
	// sequence numbers used up) dst is returned as it was, and the packet is dropped and counted with the error's wire.Reason.
	Seal(sa uint32, next uint8, inner, dst []byte) ([]byte, error)
	// Overhead is the most octets that Seal adds to an inner packet: header, IV, padding, trailer and ICV, not the UDP header. 0 =
	// unknown handle.
	Overhead(sa uint32) int
	// Open verifies and decrypts one ESP packet, from the SPI on, that came from remote to local; both have ports if it was in UDP.
	// now is the engine's clock. It returns the association that the SPI belongs to, the inner packet's protocol, and the inner
	// packet without padding: appended to dst, which is returned extended, or, if dst is nil, in place as a part of esp.
	//
	// An SPI that is no data association's is wire.UnknownSPI: the packet was not looked at, and may be signalling. Other errors
	// (wire.BadICV, wire.Replayed, wire.BadPadding, wire.DummyPacket, wire.Truncated) drop it. Each error is a wire.Reason or a
	// static *wire.Error, so that a refusal costs nothing.
	Open(now time.Duration, local, remote netip.AddrPort, esp, dst []byte) (sa uint32, next uint8, inner []byte, err error)
}

// Witness is a Security that knows what it sealed lately. It says so of the beginning of an ESP packet that an ICMP error quotes:
// then whoever sent the error was on the way (RFC 4301 8.2.1).
type Witness interface{ Sent(esp []byte) bool }

func (e *Engine) witnessed(esp []byte) bool {
	w, ok := e.cfg.Security.(Witness)
	return ok && w.Sent(esp)
}

// PortESP is the port of ESP in UDP (RFC 3948 2): the only one that this router sends it from and receives it at.
const PortESP = 4500
