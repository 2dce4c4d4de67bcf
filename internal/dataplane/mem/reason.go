package mem

import "kedge/wire"

// reason is an index of reasons: counters are an array, not a map.
type reason uint8

const (
	unknownHome reason = iota
	unknownHost
	wrongSource
	wrongTunnel
	deprecated
	linkScope
	hopLimit
	tooBig
	malformed
	badInner
	ecnDrop
	encapsulationLimit
	loop
	overlap
	reassemblyLimit
	reassemblyTimeout
	sendFailed
	wrongMAC
	rateLimit
	unsolicited
	tunnelError
	mapped
	badGRE
	badTLV
	unknownSPI
	badICV
	replayed
	badPadding
	dummyPacket
	sequenceExhausted
	sequenceUnreserved
	nReasons
)

var reasons = [nReasons]wire.Reason{
	unknownHome: wire.UnknownHome, unknownHost: wire.UnknownHost, wrongSource: wire.WrongSource, wrongTunnel: wire.WrongTunnel,
	deprecated: wire.Deprecated, linkScope: wire.LinkScope, hopLimit: wire.HopLimit, tooBig: wire.TooBig, malformed: wire.Malformed,
	badInner: wire.BadInner, ecnDrop: wire.ECNDrop, encapsulationLimit: wire.EncapsulateDeep, loop: wire.TunnelLoop,
	overlap: wire.OverlapFragment, reassemblyLimit: wire.ReassemblyLimit, reassemblyTimeout: wire.ReassemblyTimeout,
	sendFailed: wire.SendFailed, rateLimit: wire.RateLimit, wrongMAC: wire.WrongMAC, unsolicited: wire.Unsolicited, tunnelError: wire.TunnelError,
	mapped: wire.MappedAddress, badGRE: wire.BadGRE, badTLV: wire.BadTLV, unknownSPI: wire.UnknownSPI, badICV: wire.BadICV,
	replayed: wire.Replayed, badPadding: wire.BadPadding, dummyPacket: wire.DummyPacket,
	sequenceExhausted: wire.SequenceExhausted, sequenceUnreserved: wire.SequenceUnreserved,
}
