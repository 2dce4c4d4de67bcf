package mobility

import (
	"bytes"
	"errors"
	"testing"

	"kedge/wire"
)

// TestRaw keeps a message of a type that has no type here as it came, and says how to answer it.
func TestRaw(t *testing.T) {
	b := sealed(t, "3b 00 0e 00 0000 0102 030405060708090a")
	m, err := Parse(b, magAddr, lmaAddr)
	var e *wire.Error
	if !errors.As(err, &e) || e.Status != UnrecognizedMHType || e.Reason != wire.UnknownType || e.ParameterProblem {
		t.Fatalf("%v", err)
	}
	again, err := Append(nil, m, magAddr, lmaAddr)
	if err != nil || !bytes.Equal(again, b) {
		t.Errorf("written again: %x, %v; want %x", again, err, b)
	}
}

func TestRawUneven(t *testing.T) {
	for n := range 10 {
		b, err := Append([]byte{9}, &Raw{MHType: 99, Data: make([]byte, n)}, magAddr, lmaAddr)
		if n == 2 {
			if err != nil || len(b) != 9 {
				t.Errorf("%d octets: %x, %v", n, b, err)
			}
		} else if !errors.Is(err, wire.BadLength) || len(b) != 1 {
			t.Errorf("%d octets: %x, %v", n, b, err)
		}
	}
}
