package fields

import (
	"bytes"
	"net/netip"
	"testing"
)

// TestReader: fields come in order; what is short gives zeros from there on, and is never whole.
func TestReader(t *testing.T) {
	rec := []byte{1, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4, 2, 'a', 'b', 192, 0, 2, 1, 0, 0, 0, 0, 9}
	read := func(d *Reader) bool {
		return d.U8() == 1 && d.U16() == 2 && d.U32() == 3 && d.U64() == 4 && d.Text() == "ab" &&
			d.Addr(4) == netip.AddrFrom4([4]byte{192, 0, 2, 1}) && d.Addr(4) == netip.Addr{} && d.U8() == 9
	}
	d := New(rec)
	if !read(&d) || !d.Whole() || d.Short() {
		t.Errorf("left %x, short %v", d.b, d.short)
	}
	for n := range rec {
		d := New(rec[:n])
		if read(&d) || d.Whole() || !d.Short() {
			t.Errorf("%d octets are taken for a record", n)
		}
		if d.U8() != 0 || !bytes.Equal(d.Take(16), make([]byte, 16)) {
			t.Errorf("%d octets: there is something behind the end", n)
		}
	}
	d = New(append(rec, 0))
	if !read(&d) || d.Whole() {
		t.Error("a record with an octet behind it is whole")
	}
}
