package conformance

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"

	"kedge/internal/ipsec"
)

// Handle is the security association of the encapsulations in ESP: AES-GCM with keys of 128 bits and an ICV of 16 octets (RFC 4106), without
// extended sequence numbers. MarkerHandle is one more, for packets of a harness.
const (
	Handle       = 1
	MarkerHandle = 2
)

const (
	portESP = 4500 // RFC 3948
	// SPI, sequence number, IV, ICV, the two octets of the trailer, and as much padding as there may be (RFC 4303 2.4).
	overheadESP = 4 + 4 + 8 + 16 + 2 + 3
)

// spiOf and keyOf are those of one direction: SPIs that the receiver chose, key and salt (RFC 4106 8.1).
func spiOf(handle uint32, up bool) uint32 {
	if up {
		return ipsec.DataSPI | handle<<8 | 1
	}
	return ipsec.DataSPI | handle<<8 | 2
}

func keyOf(handle uint32, up bool) []byte {
	if up {
		return bytes.Repeat([]byte{0xa0 + byte(handle)}, 20)
	}
	return bytes.Repeat([]byte{0xb0 + byte(handle)}, 20)
}

// Security has the associations as one end of the tunnel has them. It is the code under test: what it must make of them is below.
func Security(t testing.TB, anchor bool) *ipsec.Data {
	t.Helper()
	d := ipsec.NewData(ipsec.DataConfig{}, nil)
	for _, h := range []uint32{Handle, MarkerHandle} {
		keys := ipsec.Keys{Suite: "aes128-gcm", In: ipsec.Half{Encryption: keyOf(h, anchor)}, Out: ipsec.Half{Encryption: keyOf(h, !anchor)}}
		if err := d.Add(ipsec.DataSA{Handle: h, Peer: "peer", SPIIn: spiOf(h, anchor), SPIOut: spiOf(h, !anchor), Negotiated: true, Keys: keys}); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// sequence is the last sequence number that any sender of the tests used.
var sequence atomic.Uint32

// SealESP is an ESP packet around one of next header 4 or 41, towards the anchor or from it: RFC 4303 2, RFC 4106 3 to 5.
func SealESP(handle uint32, up bool, next byte, inner []byte) []byte {
	return sealESP(handle, up, next, inner, sequence.Add(1), nil)
}

// sealESP takes padding for traffic flow confidentiality, too (RFC 4303 2.7).
func sealESP(handle uint32, up bool, next byte, inner []byte, seq uint32, tfc []byte) []byte {
	key := keyOf(handle, up)
	plain := slices.Concat(inner, tfc)
	for i := byte(1); len(plain)%4 != 2; i++ {
		plain = append(plain, i)
	}
	pad := len(plain) - len(inner) - len(tfc)
	plain = append(plain, byte(pad), next)
	head := binary.BigEndian.AppendUint32(nil, spiOf(handle, up))
	head = binary.BigEndian.AppendUint32(head, seq)
	iv := binary.BigEndian.AppendUint64(nil, ^uint64(seq)) // any that does not come twice
	return slices.Concat(head, iv, gcm(key).Seal(nil, slices.Concat(key[16:], iv), plain, head))
}

func gcm(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key[:16])
	if err == nil {
		var c cipher.AEAD
		if c, err = cipher.NewGCM(block); err == nil {
			return c
		}
	}
	panic(err)
}

// openESP is the other way round, and wants no more padding than there must be.
func openESP(b []byte) (inner []byte, next byte, err error) {
	if len(b) < 34 {
		return nil, 0, fmt.Errorf("ESP of %d octets", len(b))
	}
	for _, handle := range []uint32{Handle, MarkerHandle} {
		for _, up := range []bool{false, true} {
			if binary.BigEndian.Uint32(b) != spiOf(handle, up) {
				continue
			}
			key := keyOf(handle, up)
			p, err := gcm(key).Open(nil, slices.Concat(key[16:], b[8:16]), b[16:], b[:8])
			if err != nil {
				return nil, 0, err
			}
			n := len(p) - 2
			pad := int(p[n])
			if pad > 3 || pad > n || (n+2)%4 != 0 || !bytes.Equal(p[n-pad:n], []byte{1, 2, 3}[:pad]) {
				return nil, 0, fmt.Errorf("padding %x", p[max(0, n-4):])
			}
			return p[:n-pad], p[n+1], nil
		}
	}
	return nil, 0, fmt.Errorf("SPI %x", b[:4])
}

// outerESP is where the ESP packet begins in a whole outer one, 0 = nowhere.
func outerESP(b []byte) int {
	at, proto := 40, byte(0)
	switch {
	case len(b) >= 20 && b[0] == 0x45 && binary.BigEndian.Uint16(b[6:])&0x3fff == 0:
		at, proto = 20, b[9]
	case len(b) >= 40 && b[0]>>4 == 6:
		proto = b[6]
	}
	switch {
	case proto == 50 && len(b) >= at+8:
		return at
	case proto == 17 && len(b) >= at+16 && binary.BigEndian.Uint16(b[at:]) == portESP:
		return at + 8
	}
	return 0
}

// laidOpen replaces the ESP packet of an outer one by what is in it. Sequence number, IV and flow label are the router's choice, and so is whether
// its UDP header has a checksum over IPv4 (RFC 3948 2.1 asks for none).
func laidOpen(b []byte) ([]byte, error) {
	at := outerESP(b)
	if at == 0 {
		return b, nil
	}
	src, dst, proto := addresses(b)
	inner, next, err := openESP(b[at:])
	if err != nil {
		return b, err
	}
	b = slices.Concat(b[:at], []byte{next}, inner)
	if proto == 17 {
		b[at-2], b[at-1] = 0, 0
	} else if src.Is6() && dst.Is6() {
		b[1], b[2], b[3] = b[1]&0xf0, 0, 0
	}
	return b, nil
}

// joined puts the fragments of outer packets in ESP together, as nobody can look into one of them: each then is one packet that
// knows how it was cut. No sequence number may come twice, and UDP checksums must be right where they are.
func (b *bench) joined(got []Packet) (out []Packet) {
	b.Helper()
	type piece struct {
		id uint32
		at int // in out
	}
	var open []piece
	for _, p := range got {
		off, more, head, ok := fragmentOf(p.B)
		if p.Side != Tunnel || !ok {
			out = append(out, p)
			continue
		}
		i := slices.IndexFunc(open, func(x piece) bool { return x.id == ident(p.B) })
		if off == 0 && i < 0 {
			q := p
			q.B, q.pieces = unfragmented(p.B, head), fmt.Sprint(len(p.B))
			open, out = append(open, piece{ident(p.B), len(out)}), append(out, q)
			continue
		}
		if i < 0 {
			b.Errorf("a fragment of nothing: %s", short(p.B))
			continue
		}
		q := &out[open[i].at]
		if len(q.B)-headerLenOf(q.B) != off {
			b.Errorf("a fragment at %d behind %d octets", off, len(q.B)-headerLenOf(q.B))
		}
		q.B, q.pieces = lengthened(append(q.B, p.B[head:]...)), q.pieces+fmt.Sprint(" ", len(p.B))
		if !more {
			open = slices.Delete(open, i, i+1)
		}
	}
	if len(open) != 0 {
		b.Errorf("%d outer packets without their last fragments", len(open))
	}
	for _, p := range out {
		if err := b.fresh(p); err != nil {
			b.Errorf("%v: %s", err, short(p.B))
		}
	}
	return out
}

// fresh looks at what a receiver would, but for the secret.
func (b *bench) fresh(p Packet) error {
	at := outerESP(p.B)
	if p.Side != Tunnel || at == 0 {
		return nil
	}
	seq := binary.BigEndian.Uint32(p.B[at+4:])
	if b.used == nil {
		b.used = map[uint32]bool{}
	}
	if seq == 0 || b.used[seq] {
		return fmt.Errorf("sequence number %d once more", seq)
	}
	b.used[seq] = true
	src, dst, proto := addresses(p.B)
	if proto != 17 {
		return nil
	}
	sum := p.B[at-2 : at]
	if bytes.Equal(sum, []byte{0, 0}) {
		if src.Is6() {
			return errors.New("no UDP checksum over IPv6")
		}
		return nil
	}
	if pseudoSum(src, dst, 17, p.B[at-8:]) != 0 {
		return fmt.Errorf("UDP checksum %x", sum)
	}
	return nil
}

func headerLenOf(b []byte) int {
	if b[0]>>4 == 4 {
		return 20
	}
	return 40
}

// fragmentOf says where a fragment belongs, and where its part begins.
func fragmentOf(b []byte) (off int, more bool, head int, ok bool) {
	switch {
	case b[0]>>4 == 4:
		v := binary.BigEndian.Uint16(b[6:])
		return int(v&0x1fff) * 8, v&0x2000 != 0, 20, v&0x3fff != 0
	case b[6] == 44 && len(b) > 48:
		v := binary.BigEndian.Uint16(b[42:])
		return int(v &^ 7), v&1 != 0, 48, true
	}
	return 0, false, 0, false
}

// unfragmented is a first fragment as the beginning of a whole packet.
func unfragmented(b []byte, head int) []byte {
	if head == 20 {
		p := slices.Clone(b)
		p[6], p[7] = p[6]&0xc0, 0
		return lengthened(p)
	}
	p := slices.Concat(b[:40], b[48:])
	p[6] = b[40]
	return lengthened(p)
}

// lengthened is a packet whose header says how long it is.
func lengthened(b []byte) []byte {
	if b[0]>>4 == 6 {
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
		return b
	}
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	copy(b[10:], []byte{0, 0})
	binary.BigEndian.PutUint16(b[10:], plainSum(b[:20]))
	return b
}
