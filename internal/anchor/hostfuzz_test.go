package anchor

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/wire/mobility"
)

// FuzzHosts gives the anchor octets as nodes and strangers might send them, in headers of every kind. Whatever comes: no panic,
// every answer can be built and goes the way the request came, who is not vouched for gets nothing and changes nothing, and
// nothing is left when all lifetimes are over.
func FuzzHosts(f *testing.F) {
	r := startHosts(f)
	seen := netip.MustParseAddrPort("203.0.113.5:50123")
	var all []byte
	for n, b := range []bu{
		native(hoa1, coa1, opt29("10.20.0.21", 32)),
		udp(hoa1, ip("10.0.0.7"), seen, dynamic29),
		in41(hoa1, v4coa, short("10.20.0.21", 1)),
		atHome(hoa1),
		native(hoa1, coa1, opt29p("0.0.0.0", 28), opt29("224.0.0.1", 0)),
	} {
		msg := r.hostMessage(b)
		for who := range byte(3) {
			seed := append(binary.BigEndian.AppendUint16([]byte{byte(n), who}, uint16(len(msg.Raw))), msg.Raw...)
			f.Add(seed)
			all = append(all, seed...)
		}
	}
	f.Add(all)
	f.Fuzz(func(t *testing.T, in []byte) {
		r := startHosts(t)
		for n := 0; len(in) >= 4 && n < 20; n++ {
			kind, who := in[0], in[1]
			size := min(int(binary.BigEndian.Uint16(in[2:])), len(in)-4)
			raw := bytes.Clone(in[4 : 4+size])
			in = in[4+size:]
			home := hoa1
			if kind&8 != 0 {
				home = hoa2
			}
			b := [...]bu{native(home, coa1), udp(home, v4coa, seen), in41(home, v4coa), atHome(home), native(home, coa2), udp(home, v4coa, netip.AddrPortFrom(v4coa, 4191)), native(home, hoa2), in41(home, ip("10.0.0.7"))}[kind&7]
			switch who % 3 {
			case 1:
				b.auth = core.Auth{Kind: "none"}
			case 2:
				b.auth = core.Auth{Kind: "esp", Peer: "mag1"}
			}
			src := b.src
			if b.hao.IsValid() {
				src = b.hao
			}
			if len(raw) >= 8 { // a right checksum, or nothing comes further
				raw[4], raw[5] = 0, 0
				binary.BigEndian.PutUint16(raw[4:], checksum(raw, src, b.to))
			}
			msg, err := mobility.Parse(raw, src, b.to)
			ev := core.Message{Path: b.path(), Err: err, Raw: raw}
			if msg != nil {
				ev.Body = msg
			}
			sent, keys, stored := len(r.sent), len(r.keys), len(r.store)
			r.handle(ev)
			bu, is := msg.(*mobility.BindingUpdate)
			if is && err == nil && bu.Flags&mobility.BUProxy == 0 && who%3 != 0 && (len(r.sent) != sent || len(r.keys) != keys || len(r.store) != stored) {
				t.Fatalf("who is not vouched for got %v, keys %v", r.sent[sent:], r.keys)
			}
			if is && err == nil && bu.Flags&mobility.BUProxy == 0 {
				r.hostAnswer(sent, b.path())
			}
			r.pass(time.Duration(kind>>4) * time.Second)
		}
		r.restart()
		r.leakless()
	})
}

// checksum is the Mobility Header's with the pseudo header, as the sender computes it (RFC 6275 6.1.1).
func checksum(b []byte, src, dst netip.Addr) uint16 {
	s, d := src.As16(), dst.As16()
	sum := uint32(len(b)) + 135
	for _, part := range [][]byte{s[:], d[:], b} {
		for i := 0; i+1 < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
		if len(part)%2 == 1 {
			sum += uint32(part[len(part)-1]) << 8
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
