package mobility

import (
	"strings"
	"testing"

	"kedge/wire"
)

func TestRFC4283Options(t *testing.T) {
	checkAdded(t,
		added{[]Value{MobileNodeID{SubtypeNAI, "a@b.c"}}, "08 06 01 6140622e63"},
		added{[]Value{RawOption{201, []byte{1}}, MobileNodeID{9, "x"}}, "c9 01 01 08 02 09 78"}, // no alignment
		added{[]Value{MobileNodeID{SubtypeNAI, ""}}, "08 01 01"},
	)
	o := Options(nil).Add(MobileNodeID{SubtypeNAI, "first@x"}, MobileNodeID{SubtypeNAI, "second@x"})
	if v, ok := o.MobileNodeID(); !ok || v != (MobileNodeID{SubtypeNAI, "first@x"}) || o.Count(OptMobileNodeID) != 2 {
		t.Error(v, ok)
	}
	if s, id, ok := o.MobileNodeIDBytes(); !ok || s != SubtypeNAI || string(id) != "first@x" {
		t.Error(s, id, ok)
	}
	checkRefused(t, []refused{badOption(t, "0", "08 00", "Mobile Node Identifier", "RFC 4283 3", wire.BadOptionLength)})
}

func TestMobileNodeIDLength(t *testing.T) {
	longest := MobileNodeID{SubtypeNAI, strings.Repeat("n", 254)}
	if v, ok := Options(nil).Add(longest).MobileNodeID(); !ok || v != longest {
		t.Errorf("254 octets: %v, %v", v, ok)
	}
	// A byte more has no wire form, whatever is added behind it.
	o := Options(nil).Add(HandoffIndicator{1}, MobileNodeID{SubtypeNAI, longest.ID + "n"}, AccessTechnology{3})
	b, err := Append(nil, &BindingUpdate{Options: o}, magAddr, lmaAddr)
	if e, ok := err.(*wire.Error); !ok || e.Reason != wire.TooLong || b != nil {
		t.Errorf("255 octets: %x, %v", b, err)
	}
}
