package ipsec

import (
	"bytes"
	"testing"
	"time"

	"kedge/wire"
)

// FuzzDataOpen gives the table any octets as ESP: it never panics, takes only what is authentic and once, and the octets in front
// of what it appends stay.
func FuzzDataOpen(f *testing.F) {
	suites := []Suite{"aes128-gcm", "aes128-sha256", "null-sha256"}
	for _, s := range suites {
		a, _ := dataPairOf(f, s, true)
		for _, next := range []uint8{protoIPv4, ProtoIPv6, protoNone, 17} {
			for _, n := range []int{40, 41, 64, 700} {
				f.Add(mustSeal(f, a, 7, next, innerOf(f, next, max(n, 40))))
			}
		}
	}
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{0x80}, 40))
	f.Fuzz(func(t *testing.T, esp []byte) {
		for _, s := range suites {
			a, b := dataPairOf(t, s, true)
			for _, dst := range [][]byte{append(make([]byte, 0, 4096), "head"...), nil} {
				in := bytes.Clone(esp)
				handle, next, inner, err := b.Open(time.Second, dataLocal, dataRemote, in, dst)
				if dst != nil && !bytes.Equal(in, esp) || string(dst) != "head"[:len(dst)] {
					t.Fatal("the caller's octets changed")
				}
				if err != nil {
					if _, ok := err.(*wire.Error); !ok || handle != 0 || inner != nil {
						t.Fatal(handle, next, inner, err)
					}
					continue
				}
				inner = inner[len(dst):]
				if handle != 9 || len(inner) < 20 || next != protoIPv4 && next != ProtoIPv6 {
					t.Fatal(handle, next, inner)
				}
				// Only what this key seals is taken: GCM's is what comes out for its number, and CBC's ICV was of it.
				if s == "aes128-gcm" {
					a.table.get(7).out.seq = b.table.get(9).in.win.top - 1
					if again := mustSeal(t, a, 7, next, inner); !bytes.Equal(again[:16], esp[:16]) {
						t.Fatalf("%x taken, sealed it is %x", esp, again)
					}
				}
				if _, _, _, err := b.Open(time.Second, dataLocal, dataRemote, bytes.Clone(esp), nil); err == nil {
					t.Fatal("taken twice")
				}
				break
			}
		}
	})
}
