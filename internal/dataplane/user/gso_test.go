package user

import (
	"testing"

	"net/netip"

	"kedge/internal/dataplane/conformance"
	"kedge/internal/dataplane/mem"
	"kedge/wire/ip"
)

// outer makes an outer packet in UDP.
func outer(local, remote netip.Addr, n int, set func(h *ip.Header, port *uint16)) []byte {
	h := ip.Header{Src: local, Dst: remote, Proto: ip.UDP, TTL: hopLimit, ID: 7, DF: local.Is4()}
	port := uint16(4191)
	if set != nil {
		set(&h, &port)
	}
	b, err := h.Append(nil, ip.UDPLen+n)
	if err == nil {
		b, err = ip.AppendUDP(b, netip.AddrPortFrom(local, 4191), netip.AddrPortFrom(remote, port), make([]byte, n))
	}
	if err != nil {
		panic(err)
	}
	return b
}

// TestSegments: only what the kernel makes the same of leaves as one.
func TestSegments(t *testing.T) {
	six := func(n int, set func(*ip.Header, *uint16)) []byte {
		return outer(conformance.LMAA, conformance.CoA1, n, set)
	}
	four := func(n int, set func(*ip.Header, *uint16)) []byte {
		return outer(conformance.LMAA4, netip.MustParseAddr("198.51.100.11"), n, set)
	}
	for _, c := range []struct {
		name string
		in   [][]byte
		want int
	}{
		{"one", [][]byte{six(100, nil)}, 1},
		{"IPv6", [][]byte{six(100, nil), six(100, nil), six(100, nil)}, 3},
		{"IPv4", [][]byte{four(100, nil), four(100, func(h *ip.Header, _ *uint16) { h.ID = 99 })}, 2},
		{"the last is shorter", [][]byte{six(100, nil), six(99, nil), six(99, nil)}, 2},
		{"the second is longer", [][]byte{six(100, nil), six(101, nil)}, 1},
		{"empty", [][]byte{six(100, nil), six(0, nil)}, 1},
		{"another port", [][]byte{six(100, nil), six(100, func(_ *ip.Header, p *uint16) { *p = 50000 })}, 1},
		{"another tunnel", [][]byte{six(100, nil), six(100, func(h *ip.Header, _ *uint16) { h.Dst = conformance.HNP1.Addr() })}, 1},
		{"another traffic class", [][]byte{six(100, nil), six(100, func(h *ip.Header, _ *uint16) { h.TOS = 3 })}, 1},
		{"another hop limit", [][]byte{six(100, func(h *ip.Header, _ *uint16) { h.TTL-- }), six(100, func(h *ip.Header, _ *uint16) { h.TTL-- })}, 1},
		{"a flow label", [][]byte{six(100, func(h *ip.Header, _ *uint16) { h.Flow = 1 }), six(100, func(h *ip.Header, _ *uint16) { h.Flow = 1 })}, 1},
		{"not in UDP", [][]byte{six(100, func(h *ip.Header, _ *uint16) { h.Proto = ip.GRE }), six(100, func(h *ip.Header, _ *uint16) { h.Proto = ip.GRE })}, 1},
		{"IPv4 that may be fragmented", [][]byte{four(100, func(h *ip.Header, _ *uint16) { h.DF = false }), four(100, func(h *ip.Header, _ *uint16) { h.DF = false })}, 1},
		{"IPv4 fragments", [][]byte{four(100, func(h *ip.Header, _ *uint16) { h.DF, h.MF = false, true }), four(100, nil)}, 1},
	} {
		var run []mem.Packet
		for _, b := range c.in {
			run = append(run, mem.Packet{B: b})
		}
		if n := segments(run); n != c.want {
			t.Errorf("%s: %d, want %d", c.name, n, c.want)
		}
	}
	var many []mem.Packet
	for range 200 {
		many = append(many, mem.Packet{B: six(1400, nil)})
	}
	if n := segments(many); n > maxSegments || n*1400 > maxSuper {
		t.Errorf("%d segments of 1400 octets", n)
	}
}
