// Package testpcap reads and writes packet captures in tests: the packets of other implementations in testdata/vectors, and
// our own for judges such as tshark. Ethernet only, as all vectors are.
package testpcap

import (
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

// Read gives the Ethernet frames of a capture.
func Read(tb testing.TB, path string) [][]byte {
	tb.Helper()
	f, err := os.Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	r, err := pcapgo.NewReader(f)
	if err != nil {
		tb.Fatalf("%s: %v", path, err)
	}
	if r.LinkType() != layers.LinkTypeEthernet {
		tb.Fatalf("%s holds %v, want Ethernet", path, r.LinkType())
	}
	var frames [][]byte
	for {
		b, _, err := r.ReadPacketData()
		if errors.Is(err, io.EOF) {
			return frames
		}
		if err != nil {
			tb.Fatalf("%s: frame %d: %v", path, len(frames)+1, err)
		}
		frames = append(frames, b)
	}
}

// Write makes a capture of Ethernet frames, one millisecond apart.
func Write(tb testing.TB, path string, frames [][]byte) {
	tb.Helper()
	f, err := os.Create(path)
	if err != nil {
		tb.Fatal(err)
	}
	w := pcapgo.NewWriter(f)
	err = w.WriteFileHeader(65535, layers.LinkTypeEthernet)
	for i, b := range frames {
		at := time.Unix(1_700_000_000, 0).Add(time.Duration(i) * time.Millisecond)
		err = errors.Join(err, w.WritePacket(gopacket.CaptureInfo{Timestamp: at, CaptureLength: len(b), Length: len(b)}, b))
	}
	if err := errors.Join(err, f.Close()); err != nil {
		tb.Fatalf("%s: %v", path, err)
	}
}

// Numbers of the headers on the way to a Mobility Header.
const (
	etherIPv6    = 0x86dd
	protoHop     = 0
	protoIPv6    = 41
	protoRouting = 43
	protoDest    = 60
	protoMH      = 135
	optHomeAddr  = 0xc9
)

// Frame puts an IPv6 packet around a Mobility Header, and Ethernet around that.
func Frame(src, dst netip.Addr, mh []byte) []byte {
	b := make([]byte, 0, 54+len(mh))
	b = append(b, 2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1)
	b = binary.BigEndian.AppendUint16(b, etherIPv6)
	b = append(b, 0x60, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(mh)))
	b = append(b, protoMH, 64)
	b = append(b, src.AsSlice()...)
	b = append(b, dst.AsSlice()...)
	return append(b, mh...)
}

// MobilityHeader is one Mobility Header of a capture, with the addresses for its pseudo header (RFC 6275 6.1.1): that of a
// Home Address option as source, that of a type 2 routing header as destination, else the packet's.
type MobilityHeader struct {
	Frame    int // from 1, as tshark counts
	Src, Dst netip.Addr
	Bytes    []byte
}

// MobilityHeaders finds all that travel in the clear, in IPv6 tunnels too.
func MobilityHeaders(tb testing.TB, path string) []MobilityHeader {
	tb.Helper()
	var found []MobilityHeader
	for i, f := range Read(tb, path) {
		if len(f) < 14 || binary.BigEndian.Uint16(f[12:]) != etherIPv6 {
			continue
		}
		if mh, ok := find(f[14:]); ok {
			mh.Frame = i + 1
			found = append(found, mh)
		}
	}
	return found
}

// find walks the extension headers. It trusts the captures to be whole packets; a cut one is none.
func find(p []byte) (MobilityHeader, bool) {
	if len(p) < 40 || len(p) < 40+int(binary.BigEndian.Uint16(p[4:])) {
		return MobilityHeader{}, false
	}
	mh := MobilityHeader{Src: netip.AddrFrom16([16]byte(p[8:])), Dst: netip.AddrFrom16([16]byte(p[24:]))}
	next, rest := p[6], p[40:40+int(binary.BigEndian.Uint16(p[4:]))]
	for {
		switch next {
		case protoMH:
			mh.Bytes = rest
			return mh, true
		case protoIPv6:
			return find(rest)
		case protoHop, protoDest, protoRouting:
			if len(rest) < 8 || len(rest) < (int(rest[1])+1)*8 {
				return MobilityHeader{}, false
			}
			head := rest[:(int(rest[1])+1)*8]
			if next == protoRouting && head[2] == 2 && len(head) >= 24 {
				mh.Dst = netip.AddrFrom16([16]byte(head[8:]))
			}
			if next == protoDest {
				if home, ok := homeAddress(head[2:]); ok {
					mh.Src = home
				}
			}
			next, rest = head[0], rest[len(head):]
		default:
			return MobilityHeader{}, false
		}
	}
}

// homeAddress finds the Home Address option among destination options, RFC 6275 6.3.
func homeAddress(o []byte) (netip.Addr, bool) {
	for len(o) > 0 {
		if o[0] == 0 {
			o = o[1:]
			continue
		}
		if len(o) < 2 || len(o) < 2+int(o[1]) {
			break
		}
		if o[0] == optHomeAddr && o[1] == 16 {
			return netip.AddrFrom16([16]byte(o[2:])), true
		}
		o = o[2+int(o[1]):]
	}
	return netip.Addr{}, false
}
