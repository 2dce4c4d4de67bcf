package mobility

import (
	"testing"

	"kedge/wire"
)

func TestRevocation(t *testing.T) {
	checkWritten(t, []written{
		{"indication", &Revocation{Code: TriggerOutOfSync, Sequence: 0x1234, Proxy: true}, "3b 01 10 00 0000 01 07 1234 8000 01 02 00 00"},
		{"IPv4 only", &Revocation{Code: TriggerAdministrative, Sequence: 1, IPv4Only: true}, "3b 01 10 00 0000 01 01 0001 4000 01 02 00 00"},
		{"acknowledgement", &Revocation{Ack: true, Code: RevocationNoBinding, Sequence: 2, Proxy: true, Global: true}, "3b 01 10 00 0000 02 80 0002 a000 01 02 00 00"},
	})
}

func TestRevocationOfNoKind(t *testing.T) {
	var cases []refused
	for _, c := range []struct{ name, hex string }{{"0", "3b 00 10 00 0000 00 00 0001 0000 01 02 00 00"}, {"3", "3b 00 10 00 0000 03 00 0001 0000 01 02 00 00"}} {
		cases = append(cases, refused{"type " + c.name, sealed(t, c.hex),
			wire.Error{Msg: "Binding Revocation", Field: "B.R. Type", Off: 6, RFC: "RFC 5846 5", Reason: wire.BadValue}})
	}
	checkRefused(t, cases)
}
