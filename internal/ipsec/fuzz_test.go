package ipsec

import (
	"bytes"
	"testing"

	"kedge/internal/core"
	"kedge/internal/testpcap"
	"kedge/wire"
)

// FuzzInbound gives the engine any octets as ESP: it never panics, leaves the caller's octets alone, and accepts only what is
// authentic.
func FuzzInbound(f *testing.F) {
	for _, suite := range []Suite{"aes128-sha256", "null-sha256"} {
		_, mn := pair(f, suite)
		tm, _ := toAgent(5)
		for range 3 {
			esp, _, _, err := mn.Outbound(at(0), tm, mh(5), nil)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(esp)
		}
	}
	for _, frame := range testpcap.Read(f, umipCapture) {
		if c, ok := espOf(frame); ok {
			f.Add(c.esp)
		}
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, esp []byte) {
		in := bytes.Clone(esp)
		for _, suite := range []Suite{"aes128-sha256", "null-sha256"} {
			ha, mn := pair(t, suite)
			if err := ha.UpdateEndpoint("mn1", home1, agent, careOf); err != nil {
				t.Fatal(err)
			}
			_, th := toAgent(5)
			into := append(make([]byte, 0, 100), "head"...)
			out, _, auth, err := ha.Inbound(at(0), th, esp, into)
			if !bytes.Equal(in, esp) || string(out[:4]) != "head" {
				t.Fatal("the caller's octets changed")
			}
			if err != nil {
				if reasonOf(err) == "" || len(out) != 4 || auth != (core.Auth{}) {
					t.Fatalf("%x %v %v", out, auth, err)
				}
				continue
			}
			// Authentic: it is one of those that this node seals.
			tm, _ := toAgent(5)
			found := false
			for range 3 {
				ours, _, _, _ := mn.Outbound(at(0), tm, out[4:], nil)
				found = found || bytes.Equal(ours[:8], esp[:8])
			}
			if !found {
				t.Fatalf("%x was accepted", esp)
			}
			if _, _, _, err := ha.Inbound(at(0), th, esp, nil); reasonOf(err) != wire.Replayed {
				t.Fatalf("twice: %v", err)
			}
		}
	})
}

// FuzzPlain gives a tunnel authentic ESP with any octets inside: what comes out of it is bounded by what went in.
func FuzzPlain(f *testing.F) {
	f.Add(mh(5), uint8(135), uint8(Signalling))
	f.Add([]byte{146, 0, 0, 0, 0, 0, 0, 0}, uint8(58), uint8(PrefixDiscovery))
	f.Add(append([]byte{0x60, 0, 0, 0, 0, 16, 135, 64}, append(make([]byte, 32), mh(1)...)...), uint8(41), uint8(ReturnRoutability))
	f.Add([]byte{0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2}, uint8(4), uint8(Payload))
	f.Add([]byte{}, uint8(59), uint8(Signalling))
	f.Fuzz(func(t *testing.T, plain []byte, next, use uint8) {
		if use >= uses || len(plain) > 1<<16 {
			return
		}
		ha, mn := pair(t, "aes128-sha256")
		if err := ha.UpdateEndpoint("mn1", home1, agent, careOf); err != nil {
			t.Fatal(err)
		}
		esp, _, _, err := mn.seal(at(0), &Traffic{}, mn.peers["ha1"], Use(use), next, plain, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, th := toAgent(5)
		out, proto, auth, err := ha.Inbound(at(0), th, esp, nil)
		if err == nil && (!bytes.HasPrefix(plain, out) || proto != next || auth.Peer != "mn1") {
			t.Fatalf("%x %d %v", out, proto, auth)
		}
		if err == nil && Use(use).Tunnel() {
			if in, err := InnerTraffic(out, false); err != nil || in.Remote != home1 {
				t.Fatalf("%v %v", in, err)
			}
		}
	})
}
