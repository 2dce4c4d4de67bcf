package lab

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket/pcapgo"

	"kedge/wire/mobility"
)

// Options of the figures, by number.
const (
	optMNID, optHNP, optHI, optATT, optLLID, optTime = 8, 22, 23, 24, 25, 27
	optV4, optV4Ack                                  = 29, 30 // document 001
	optV4Req, optV4Reply, optRouter4, optDHCPMode    = 36, 37, 38, 39
)

// figureLengths are the lengths of options with one length; figureAlign where an option begins, as 8n+y or 4n.
var (
	figureLengths = map[byte]int{optHNP: 18, optHI: 2, optATT: 2, optTime: 8, optV4: 6, optV4Ack: 6, optV4Req: 6, optV4Reply: 6, optRouter4: 6, optDHCPMode: 2}
	figureAlign   = map[byte][2]int{optHNP: {8, 4}, optLLID: {2, 0}, optTime: {8, 2}, optV4: {4, 0}, optV4Ack: {4, 0}, optV4Req: {4, 0}, optV4Reply: {4, 0}, optRouter4: {4, 0}}
)

// registration is one message of figure 4 or 5, octet by octet; nothing of our codec has touched it.
type registration struct {
	src, dst netip.Addr
	seq      uint16
	flags    uint16
	status   byte
	life     uint16
	opts     map[byte][][]byte
}

// readFigure takes an Ethernet frame apart. ok: it is a Binding Update or Acknowledgement, well or badly built.
func readFigure(b []byte) (r registration, typ byte, ok bool, err error) {
	if len(b) < 54 || b[12] != 0x86 || b[13] != 0xdd {
		return r, 0, false, nil
	}
	p := b[14:]
	// Nothing stands between the IPv6 header and the Mobility Header: no IPv4, UDP, Destination Options, routing header.
	if p[6] != 135 {
		return r, 0, false, nil
	}
	size := int(binary.BigEndian.Uint16(p[4:]))
	if len(p) < 40+size || size < 12 {
		return r, 0, false, errors.New("truncated")
	}
	m := p[40 : 40+size]
	if typ = m[2]; typ != 5 && typ != 6 {
		return r, typ, false, nil
	}
	r.src, r.dst = netip.AddrFrom16([16]byte(p[8:24])), netip.AddrFrom16([16]byte(p[24:40]))
	switch {
	case m[0] != 59 || m[3] != 0:
		return r, typ, true, fmt.Errorf("payload protocol %d, reserved %d", m[0], m[3])
	case (int(m[1])+1)*8 != size:
		return r, typ, true, fmt.Errorf("header length %d of %d octets", m[1], size)
	}
	if err := mhOK(p); err != nil {
		return r, typ, true, err
	}
	if typ == 5 {
		r.seq, r.flags, r.life = binary.BigEndian.Uint16(m[6:]), binary.BigEndian.Uint16(m[8:]), binary.BigEndian.Uint16(m[10:])
	} else {
		r.status, r.flags = m[6], uint16(m[7])
		r.seq, r.life = binary.BigEndian.Uint16(m[8:]), binary.BigEndian.Uint16(m[10:])
	}
	r.opts, err = readOptions(m)
	return r, typ, true, err
}

func readOptions(m []byte) (map[byte][][]byte, error) {
	opts := map[byte][][]byte{}
	for i := 12; i < len(m); {
		t := m[i]
		if t == 0 {
			i++
			continue
		}
		if i+2 > len(m) || i+2+int(m[i+1]) > len(m) {
			return nil, fmt.Errorf("option %d at %d goes past the end", t, i)
		}
		v := m[i+2 : i+2+int(m[i+1])]
		if n, ok := figureLengths[t]; ok && n != len(v) {
			return nil, fmt.Errorf("option %d has length %d, want %d", t, len(v), n)
		}
		if a, ok := figureAlign[t]; ok && i%a[0] != a[1] {
			return nil, fmt.Errorf("option %d begins at %d, want %dn+%d", t, i, a[0], a[1])
		}
		switch t {
		case 1:
			if len(bytes.Trim(v, "\x00")) > 0 {
				return nil, fmt.Errorf("padding %x", v)
			}
		default:
			opts[t] = append(opts[t], v)
		}
		i += 2 + len(v)
	}
	return opts, nil
}

// common is what figures 4 and 5 have in common: Mobile Node Identifier and Access Technology Type once, Timestamp and
// link-layer identifier at most once, and nothing of the other figures.
func (r *registration) common() error {
	for t, n := range map[byte][2]int{optMNID: {1, 1}, optATT: {1, 1}, optHI: {1, 1}, optLLID: {0, 1}, optTime: {0, 1}, optHNP: {0, 8}, 32: {0, 0}, 31: {0, 0}} {
		if got := len(r.opts[t]); got < n[0] || got > n[1] {
			return fmt.Errorf("option %d stands there %d times", t, got)
		}
	}
	if v := r.opts[optMNID][0]; len(v) < 2 || v[0] != 1 {
		return fmt.Errorf("identifier %x is no NAI", v)
	}
	for _, t := range []byte{optATT, optHI} {
		if r.opts[t][0][0] != 0 {
			return fmt.Errorf("option %d: reserved octet %d", t, r.opts[t][0][0])
		}
	}
	if v := r.opts[optLLID]; len(v) == 1 && (len(v[0]) < 2 || v[0][0] != 0 || v[0][1] != 0) {
		return fmt.Errorf("link-layer identifier %x: reserved octets are set", v[0])
	}
	return nil
}

// figure4 judges a Proxy Binding Update and says in which dialect it is: option 29 or 36.
func (r *registration) figure4(gateways []netip.Addr, anchor netip.Addr) (option byte, err error) {
	switch {
	case !slices.Contains(gateways, r.src) || r.dst != anchor:
		return 0, fmt.Errorf("from %s to %s", r.src, r.dst)
	case r.flags != 0x8200:
		return 0, fmt.Errorf("flags %04x, want A and P only", r.flags)
	case len(r.opts[optV4])+len(r.opts[optV4Req]) != 1:
		return 0, fmt.Errorf("%d and %d IPv4 home addresses", len(r.opts[optV4]), len(r.opts[optV4Req]))
	case len(r.opts[optV4Ack])+len(r.opts[optV4Reply])+len(r.opts[optRouter4]) != 0:
		return 0, errors.New("options of an answer")
	}
	if option = optV4; len(r.opts[optV4]) == 0 {
		option = optV4Req
	}
	v := r.opts[option][0]
	if v[0]&3 != 0 || v[1] != 0 { // 6 bits of length, P flag of document 001, 9 reserved bits
		return option, fmt.Errorf("option %d: flags or reserved bits in %x", option, v)
	}
	return option, r.common()
}

// figure5 judges the acknowledgement of a request.
func (r *registration) figure5(q *registration, option byte) error {
	switch {
	case r.src != q.dst || r.dst != q.src:
		return fmt.Errorf("from %s to %s, want from %s to %s", r.src, r.dst, q.dst, q.src)
	case r.flags != 0x20:
		return fmt.Errorf("flags %02x, want P only", r.flags)
	}
	if err := r.common(); err != nil {
		return err
	}
	for _, t := range []byte{optMNID, optATT, optHI, optLLID, optTime} {
		if !slices.EqualFunc(r.opts[t], q.opts[t], bytes.Equal) {
			return fmt.Errorf("option %d is %x, the request has %x", t, r.opts[t], q.opts[t])
		}
	}
	want := map[byte]int{optV4Ack: 1}
	if option == optV4Req {
		want = map[byte]int{optV4Reply: 1, optRouter4: 1}
		if r.status >= 128 || r.life == 0 {
			delete(want, optRouter4)
		}
	}
	for _, t := range []byte{optV4, optV4Ack, optV4Req, optV4Reply, optRouter4} {
		if n := len(r.opts[t]); n != want[t] && !(t == optRouter4 && r.life == 0) {
			return fmt.Errorf("option %d stands there %d times, want %d", t, n, want[t])
		}
	}
	for _, t := range []byte{optV4Ack, optV4Reply} {
		for _, v := range r.opts[t] {
			if v[1]&3 != 0 {
				return fmt.Errorf("option %d: reserved bits in %x", t, v)
			}
		}
	}
	return nil
}

// judgeFigures reads a capture and counts the good messages by figure and dialect: "4 with 29".
func judgeFigures(file string, gateways []netip.Addr, anchor netip.Addr) (map[string]int, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	rd, err := pcapgo.NewReader(bufio.NewReader(f))
	if err != nil {
		return nil, err
	}
	j := judge{gateways: gateways, anchor: anchor, good: map[string]int{}, asked: map[string]asked{}}
	for n := 1; ; n++ {
		b, _, err := rd.ReadPacketData()
		if errors.Is(err, io.EOF) {
			return j.good, nil
		}
		if err != nil {
			return nil, err
		}
		if err := j.frame(slices.Clone(b)); err != nil {
			return nil, fmt.Errorf("frame %d: %w", n, err)
		}
	}
}

// judge pairs answers with requests by gateway and sequence number.
type judge struct {
	gateways []netip.Addr
	anchor   netip.Addr
	good     map[string]int
	asked    map[string]asked
}

type asked struct {
	registration
	option byte
}

func (j *judge) frame(b []byte) error {
	r, typ, ok, err := readFigure(b)
	if !ok || err != nil {
		return err
	}
	if typ == 5 {
		option, err := r.figure4(j.gateways, j.anchor)
		if err != nil {
			return fmt.Errorf("figure 4: %w", err)
		}
		j.asked[fmt.Sprint(r.src, r.seq)] = asked{r, option}
		j.good[fmt.Sprintf("4 with %d", option)]++
		return nil
	}
	q, ok := j.asked[fmt.Sprint(r.dst, r.seq)]
	if !ok {
		return fmt.Errorf("figure 5: nobody asked with sequence number %d", r.seq)
	}
	if err := r.figure5(&q.registration, q.option); err != nil {
		return fmt.Errorf("figure 5: %w", err)
	}
	j.good[fmt.Sprintf("5 with %d", q.option)]++
	return nil
}

var (
	figureMAG = netip.MustParseAddr("2001:db8:a::11")
	figureLMA = netip.MustParseAddr("2001:db8:a::1")
)

// judges look at what a scenario left, by its name.
var judges = map[string]func(t *testing.T, dir string){
	"figures": func(t *testing.T, dir string) {
		got, err := judgeFigures(filepath.Join(dir, "core.pcap"), []netip.Addr{figureMAG, netip.MustParseAddr("2001:db8:a::12")}, figureLMA)
		if err != nil {
			t.Fatal(err)
		}
		for _, what := range []string{"4 with 29", "4 with 36", "5 with 29", "5 with 36"} {
			if got[what] < 3 {
				t.Errorf("only %d messages of figure %s: %v", got[what], what, got)
			}
		}
		t.Logf("good messages by figure and option: %v", got)
	},
}

// figureFrames are a good request and its answer.
func figureFrames(t *testing.T) (pbu, pba []byte) {
	t.Helper()
	same := []mobility.Value{mobility.MobileNodeID{Subtype: 1, ID: "a@example.net"}, mobility.HandoffIndicator{Value: 4}, mobility.AccessTechnology{Value: 3},
		mobility.LinkLayerID{ID: []byte{2, 0, 0, 0, 0, 1}}, mobility.TimestampOf(time.Unix(1e9, 0))}
	u := &mobility.BindingUpdate{Sequence: 7, Flags: mobility.BUAck | mobility.BUProxy, Lifetime: 2}
	u.Options = u.Options.Add(same...).Add(mobility.IPv4HomeAddress{Addr: netip.IPv4Unspecified()})
	a := &mobility.BindingAck{Sequence: 7, Flags: mobility.BAProxy, Lifetime: 2}
	a.Options = a.Options.Add(same...).Add(mobility.IPv4AddressAck{PrefixLen: 24, Addr: netip.MustParseAddr("10.20.0.5")})
	frame := func(m mobility.Message, src, dst netip.Addr) []byte {
		b, err := mobility.Append(nil, m, src, dst)
		if err != nil {
			t.Fatal(err)
		}
		h, _ := hex.DecodeString("02000000000202000000000186dd60000000")
		h = append(binary.BigEndian.AppendUint16(h, uint16(len(b))), 135, 64)
		return slices.Concat(h, src.AsSlice(), dst.AsSlice(), b)
	}
	return frame(u, figureMAG, figureLMA), frame(a, figureLMA, figureMAG)
}

// TestFigureJudge: the judge passes a good pair and finds each single fault.
func TestFigureJudge(t *testing.T) {
	pbu, pba := figureFrames(t)
	const mh = 54
	find := func(b []byte, opt byte) int {
		for i := mh + 12; i < len(b); i += 2 + int(b[i+1]) {
			if b[i] == 0 {
				i--
			} else if b[i] == opt {
				return i
			}
		}
		t.Fatalf("no option %d in %x", opt, b)
		return 0
	}
	try := func(change func(u, a []byte)) error {
		u, a := slices.Clone(pbu), slices.Clone(pba)
		change(u, a)
		for _, b := range [][]byte{u, a} {
			b[mh+4], b[mh+5] = 0, 0
			sum := uint32(len(b)-mh) + 135
			for i := 22; i+1 < len(b); i += 2 {
				sum += uint32(b[i])<<8 | uint32(b[i+1])
			}
			for sum>>16 != 0 {
				sum = sum>>16 + sum&0xffff
			}
			binary.BigEndian.PutUint16(b[mh+4:], ^uint16(sum))
		}
		j := judge{gateways: []netip.Addr{figureMAG}, anchor: figureLMA, good: map[string]int{}, asked: map[string]asked{}}
		return errors.Join(j.frame(u), j.frame(a))
	}
	if err := try(func(_, _ []byte) {}); err != nil {
		t.Fatal("good messages: ", err)
	}
	for name, tt := range map[string]struct {
		change func(u, a []byte)
		want   string
	}{
		"update from elsewhere":       {func(u, _ []byte) { u[37]++ }, "figure 4: from"},
		"answer to elsewhere":         {func(_, a []byte) { a[53]++ }, "nobody asked"},
		"answer from elsewhere":       {func(_, a []byte) { a[37]++ }, "figure 5: from"},
		"no A flag":                   {func(u, _ []byte) { u[mh+8] &^= 0x80 }, "flags"},
		"no P flag":                   {func(u, _ []byte) { u[mh+8] &^= 2 }, "flags"},
		"F flag":                      {func(u, _ []byte) { u[mh+8] |= 1 }, "flags"},
		"no P flag in the answer":     {func(_, a []byte) { a[mh+7] = 0 }, "flags"},
		"reserved octet":              {func(u, _ []byte) { u[mh+3] = 1 }, "reserved"},
		"payload protocol":            {func(u, _ []byte) { u[mh] = 17 }, "payload protocol"},
		"header length":               {func(u, _ []byte) { u[mh+1]++ }, "header length"},
		"no identifier":               {func(u, _ []byte) { u[find(u, optMNID)] = 200 }, "option 8 stands there 0 times"},
		"identifier that is none":     {func(u, _ []byte) { u[find(u, optMNID)+2] = 9 }, "is no NAI"},
		"no access technology":        {func(u, _ []byte) { u[find(u, optATT)] = 200 }, "option 24 stands there 0 times"},
		"two access technologies":     {func(u, _ []byte) { u[find(u, optHI)] = optATT }, "stands there"},
		"no IPv4 address":             {func(u, _ []byte) { u[find(u, optV4)] = 200 }, "0 and 0 IPv4 home addresses"},
		"P bit in option 29":          {func(u, _ []byte) { u[find(u, optV4)+2] |= 2 }, "reserved bits"},
		"reserved in option 29":       {func(u, _ []byte) { u[find(u, optV4)+3] = 1 }, "reserved bits"},
		"answer's option in a update": {func(u, _ []byte) { u[find(u, optHI)] = optV4Ack }, "length"},
		"dialect changes":             {func(_, a []byte) { a[find(a, optV4Ack)] = optV4Reply }, "option 30 stands there 0 times"},
		"reserved in option 30":       {func(_, a []byte) { a[find(a, optV4Ack)+3] |= 1 }, "reserved bits"},
		"other identifier":            {func(_, a []byte) { a[find(a, optMNID)+4]++ }, "the request has"},
		"other technology":            {func(_, a []byte) { a[find(a, optATT)+3]++ }, "the request has"},
		"other link-layer identifier": {func(_, a []byte) { a[find(a, optLLID)+9]++ }, "the request has"},
		"identifier nobody sent":      {func(u, _ []byte) { u[find(u, optLLID)] = 200 }, "the request has"},
		"timestamp nobody sent":       {func(u, _ []byte) { u[find(u, optTime)] = 200 }, "the request has"},
		"other sequence number":       {func(_, a []byte) { a[mh+9]++ }, "nobody asked"},
		"NAT Detection":               {func(u, _ []byte) { u[find(u, optLLID)] = 31 }, "option 31"},
		"option past the end":         {func(u, _ []byte) { u[find(u, optV4)+1] = 60 }, "past the end"},
		"full padding":                {func(u, _ []byte) { u[find(u, optHI)] = 1 }, "padding"},
	} {
		if err := try(tt.change); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	// The last option two octets late: a half of the padding behind it comes before it.
	if err := try(func(u, _ []byte) {
		i := find(u, optV4)
		copy(u[i:], []byte{1, 0})
		copy(u[i+2:], pbu[i:i+8])
		copy(u[i+10:], []byte{1, 0})
	}); err == nil || !strings.Contains(err.Error(), "begins at") {
		t.Errorf("an option off its boundary: %v", err)
	}
}
