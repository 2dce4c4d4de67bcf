package mobility

import (
	"encoding/binary"

	"kedge/wire"
)

// Revocation is a Binding Revocation Indication or, with Ack, its Acknowledgement: type 16, RFC 5846 5.
type Revocation struct {
	Ack      bool  // B.R. Type 2 instead of 1
	Code     uint8 // revocation trigger (indication) or status (acknowledgement)
	Sequence uint16
	Proxy    bool // P
	IPv4Only bool // V
	Global   bool // G
	Options  Options
}

// Revocation triggers, RFC 5846 5.1. Below 128: for one mobile node; others for all of a peer (G flag).
const (
	TriggerUnspecified        uint8 = 0
	TriggerAdministrative     uint8 = 1
	TriggerHandoverSameType   uint8 = 2
	TriggerHandoverOtherType  uint8 = 3
	TriggerHandoverUnknown    uint8 = 4
	TriggerUserTermination    uint8 = 5
	TriggerNetworkTermination uint8 = 6
	TriggerOutOfSync          uint8 = 7
	TriggerPeerPolicy         uint8 = 128
	TriggerLocalPolicy        uint8 = 129
)

// Revocation status values, RFC 5846 5.2. Below 128: success.
const (
	RevocationSuccess              uint8 = 0
	RevocationPartial              uint8 = 1
	RevocationNoBinding            uint8 = 128
	RevocationIPv4HomeRequired     uint8 = 129
	RevocationGlobalNotAuthorized  uint8 = 130
	RevocationIdentityRequired     uint8 = 131
	RevocationNodeAttached         uint8 = 132
	RevocationTriggerNotSupported  uint8 = 133
	RevocationFunctionNotSupported uint8 = 134
	RevocationProxyNotSupported    uint8 = 135
)

// Octets of the B.R. Type field and flags of the word after the sequence number, RFC 5846 5.1.
const (
	revocationIndication = 1
	revocationAck        = 2
	revocationProxy      = 0x80
	revocationIPv4Only   = 0x40
	revocationGlobal     = 0x20
)

func (*Revocation) Type() Type            { return TypeBindingRevocation }
func (m *Revocation) GetOptions() Options { return m.Options }
func (*Revocation) fixed() int            { return 12 }

// parseRevocation gives an error for an unassigned B.R. Type: its octets have no known meaning, so no answer fits either.
func parseRevocation(h []byte, o Options) (*Revocation, *wire.Error) {
	if h[6] != revocationIndication && h[6] != revocationAck {
		return nil, &wire.Error{Field: "B.R. Type", Off: 6, RFC: "RFC 5846 5", Reason: wire.BadValue}
	}
	return &Revocation{
		Ack:      h[6] == revocationAck,
		Code:     h[7],
		Sequence: binary.BigEndian.Uint16(h[8:]),
		Proxy:    h[10]&revocationProxy != 0,
		IPv4Only: h[10]&revocationIPv4Only != 0,
		Global:   h[10]&revocationGlobal != 0,
		Options:  o,
	}, nil
}

func (m *Revocation) appendBody(b []byte) []byte {
	b = append(b, revocationIndication+b2u(m.Ack), m.Code)
	b = binary.BigEndian.AppendUint16(b, m.Sequence)
	return append(b, b2u(m.Proxy)*revocationProxy|b2u(m.IPv4Only)*revocationIPv4Only|b2u(m.Global)*revocationGlobal, 0)
}
