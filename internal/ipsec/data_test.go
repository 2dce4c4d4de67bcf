package ipsec

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"kedge/wire"
	"kedge/wire/ip"
)

var dataLocal, dataRemote = netip.MustParseAddrPort("198.51.100.1:4500"), netip.MustParseAddrPort("192.0.2.7:4500")

// dataKeys are keys for tests, of static suites and AES-GCM.
func dataKeys(tb testing.TB, s Suite) Keys {
	tb.Helper()
	enc, auth, gcm, err := s.parse()
	if err != nil {
		tb.Fatal(err)
	}
	n := enc.key
	if gcm {
		n += gcmSalt
	}
	half := func(seed byte) Half {
		h := Half{Encryption: bytes.Repeat([]byte{seed}, n), Integrity: bytes.Repeat([]byte{seed + 1}, auth.key)}
		for i := range h.Encryption {
			h.Encryption[i] += byte(i)
		}
		return h
	}
	return Keys{Suite: s, In: half(1), Out: half(101)}
}

// dataPairOf makes both ends of one association with handle 7 here and 9 there.
func dataPairOf(tb testing.TB, s Suite, esn bool) (a, b *Data) {
	tb.Helper()
	sa := DataSA{Handle: 7, Peer: "b", SPIIn: DataSPI | 0x1001, SPIOut: DataSPI | 0x2002, Keys: dataKeys(tb, s), Negotiated: true, ESN: esn}
	a, b = NewData(DataConfig{}, nil), NewData(DataConfig{}, nil)
	back := DataSA{Handle: 9, Peer: "a", SPIIn: sa.SPIOut, SPIOut: sa.SPIIn, Keys: sa.Keys.Swapped(), Negotiated: true, ESN: esn}
	if err := errors.Join(a.Add(sa), b.Add(back)); err != nil {
		tb.Fatal(err)
	}
	return a, b
}

// innerOf is an inner packet of n octets in all.
func innerOf(tb testing.TB, next uint8, n int) []byte {
	tb.Helper()
	h := ip.Header{Src: netip.MustParseAddr("2001:db8::1"), Dst: netip.MustParseAddr("2001:db8::2"), Proto: 17, TTL: 64}
	if next == protoIPv4 {
		h.Src, h.Dst = netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	}
	head := 40
	if next == protoIPv4 {
		head = 20
	}
	b, err := h.Append(nil, n-head)
	if err != nil {
		tb.Fatal(err)
	}
	for i := range n - head {
		b = append(b, byte(i))
	}
	return b
}

func mustSeal(tb testing.TB, d *Data, handle uint32, next uint8, inner []byte) []byte {
	tb.Helper()
	esp, err := d.Seal(handle, next, inner, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return esp
}

// TestDataRoundTrip: both families, all suites, with and without extended numbers, appended and in place.
func TestDataRoundTrip(t *testing.T) {
	for _, suite := range append(Suites(), "aes128-gcm", "aes192-gcm", "aes256-gcm") {
		for _, esn := range []bool{false, true} {
			a, b := dataPairOf(t, Suite(suite), esn)
			for _, next := range []uint8{protoIPv4, ProtoIPv6} {
				for n := 40; n < 140; n += 9 {
					inner := innerOf(t, next, n)
					prefix := []byte("in front")
					esp, err := a.Seal(7, next, inner, prefix)
					if err != nil || !bytes.HasPrefix(esp, prefix) {
						t.Fatal(err)
					}
					esp = esp[len(prefix):]
					if more := len(esp) - len(inner); more > a.Overhead(7) || more < a.Overhead(7)-15 {
						t.Errorf("%s: %d octets more, overhead %d", suite, more, a.Overhead(7))
					}
					whole := bytes.Clone(esp)
					handle, proto, got, err := b.Open(1, dataLocal, dataRemote, esp, prefix)
					if err != nil || handle != 9 || proto != next || !bytes.Equal(got, append(bytes.Clone(prefix), inner...)) {
						t.Fatalf("%s: %d %d %x %v", suite, handle, proto, got, err)
					}
					if !bytes.Equal(esp, whole) {
						t.Errorf("%s: the packet was changed", suite)
					}
					// Again, with the next number and in its own place.
					esp = mustSeal(t, a, 7, next, inner)
					_, _, got, err = b.Open(1, dataLocal, dataRemote, esp, nil)
					if err != nil || !bytes.Equal(got, inner) {
						t.Fatalf("%s in place: %x %v", suite, got, err)
					}
					if p := b.table.get(9).opens.model; &got[0] != &esp[header+p.iv] {
						t.Errorf("%s: not in place", suite)
					}
				}
			}
			if d := b.Drops(); len(d) != 0 {
				t.Error(d)
			}
		}
	}
}

// TestDataRefusals: what is wrong is refused for its reason and counted, and nothing of it is given.
func TestDataRefusals(t *testing.T) {
	a, b := dataPairOf(t, "aes128-gcm", true)
	inner := innerOf(t, ProtoIPv6, 60)
	good := func() []byte { return mustSeal(t, a, 7, ProtoIPv6, inner) }
	sealed := func(next uint8, payload []byte) []byte { return mustSeal(t, a, 7, next, payload) }
	changed := func(at int) []byte { p := good(); p[at] ^= 1; return p }
	again := good()
	if _, _, _, err := b.Open(1, dataLocal, dataRemote, bytes.Clone(again), nil); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		esp  []byte
		want wire.Reason
	}{
		{"nothing", nil, wire.Truncated},
		{"a header", good()[:8], wire.Truncated},
		{"an IV", good()[:16], wire.Truncated},
		{"cut by one word", good()[:80], wire.BadICV},
		{"cut by one octet", good()[:81], wire.BadLength},
		{"another SPI", changed(3), wire.UnknownSPI},
		{"another sequence number", changed(7), wire.BadICV},
		{"another IV", changed(15), wire.BadICV},
		{"another octet", changed(30), wire.BadICV},
		{"another ICV", changed(83), wire.BadICV},
		{"the same again", again, wire.Replayed},
		{"a dummy", sealed(59, []byte("whatever")), wire.DummyPacket},
		{"a Mobility Header", sealed(135, mh(5)), wire.BadInner},
		{"IPv6 that says to be IPv4", sealed(4, inner), wire.BadInner},
		{"half an IPv6 header", sealed(41, inner[:20]), wire.BadInner},
		{"less than its header says", sealed(41, inner[:59]), wire.BadInner},
		{"an IPv4 length below a header", sealed(4, append([]byte{0x45, 0, 0, 19}, make([]byte, 40)...)), wire.BadInner},
	} {
		before := b.Drops()[c.want]
		handle, next, got, err := b.Open(1, dataLocal, dataRemote, c.esp, nil)
		if w, ok := err.(*wire.Error); !ok || w.Reason != c.want || handle != 0 || next != 0 || got != nil {
			t.Errorf("%s: %d %d %x %v, want %s", c.name, handle, next, got, err, c.want)
		}
		if n := b.Drops()[c.want] - before; n != 1 {
			t.Errorf("%s: counted %d times", c.name, n)
		}
	}
	// Padding for traffic flow confidentiality ends with the packet, RFC 4303 2.7.
	if _, _, got, err := b.Open(1, dataLocal, dataRemote, sealed(41, append(bytes.Clone(inner), make([]byte, 300)...)), nil); err != nil || !bytes.Equal(got, inner) {
		t.Errorf("%x %v", got, err)
	}
	// Of signalling nothing is counted.
	foreign := good()
	foreign[0] = 0
	if _, _, _, err := b.Open(1, dataLocal, dataRemote, foreign, nil); reasonOf(err) != wire.UnknownSPI || b.Drops()[wire.UnknownSPI] != 1 {
		t.Errorf("%v, %d", err, b.Drops()[wire.UnknownSPI])
	}
	if _, err := a.Seal(8, 41, inner, nil); reasonOf(err) != wire.WrongAssociation || a.Overhead(8) != 0 {
		t.Errorf("sealed by nothing: %v", err)
	}
}

// TestDataBadPadding: what was authenticated and has bad padding is dropped, and its number is used.
func TestDataBadPadding(t *testing.T) {
	a, b := dataPairOf(t, "aes128-gcm", false)
	p := a.table.get(7)
	t1 := p.seals.lend()
	raw := make([]byte, 16, 200)
	binary.BigEndian.PutUint32(raw, DataSPI|0x2002)
	binary.BigEndian.PutUint32(raw[4:], 1)
	binary.BigEndian.PutUint64(raw[8:], 1)
	copy(t1.nonce[gcmSalt:], raw[8:])
	esp := t1.aead.Seal(raw, t1.nonce[:], append(innerOf(t, ProtoIPv6, 56), 1, 7, 2, 41), t1.associated(DataSPI|0x2002, 1))
	p.seals.back(t1)
	if _, _, _, err := b.Open(0, dataLocal, dataRemote, bytes.Clone(esp), nil); reasonOf(err) != wire.BadPadding {
		t.Fatal(err)
	}
	if _, _, _, err := b.Open(0, dataLocal, dataRemote, esp, nil); reasonOf(err) != wire.Replayed {
		t.Fatal(err)
	}
}

// TestDataExhausted: after the last number nothing is sent, however often it is tried, and the other side takes the last one.
func TestDataExhausted(t *testing.T) {
	for _, c := range []struct {
		esn  bool
		last uint64
	}{{false, 1<<32 - 1}, {true, 1<<64 - 1}} {
		a, b := dataPairOf(t, "aes128-gcm", c.esn)
		a.table.get(7).out.seq = c.last - 2
		b.table.get(9).in.win.restore(c.last - 2)
		inner := innerOf(t, ProtoIPv6, 60)
		for range 2 {
			if _, _, _, err := b.Open(0, dataLocal, dataRemote, mustSeal(t, a, 7, ProtoIPv6, inner), nil); err != nil {
				t.Fatal(err)
			}
		}
		dst := []byte("before")
		n := testing.AllocsPerRun(100, func() {
			if out, err := a.Seal(7, ProtoIPv6, inner, dst); err.(*wire.Error).Reason != wire.SequenceExhausted || len(out) != len(dst) {
				t.Fatal(err)
			}
		})
		if n != 0 || a.Drops()[wire.SequenceExhausted] < 100 {
			t.Errorf("%v allocations, %v", n, a.Drops())
		}
	}
}

// TestDataWrap carries extended numbers over the end of their low half, in disorder.
func TestDataWrap(t *testing.T) {
	a, b := dataPairOf(t, "aes128-gcm", true)
	a.table.get(7).out.seq = 1<<32 - 100
	b.table.get(9).in.win.restore(1<<32 - 100)
	inner := innerOf(t, ProtoIPv6, 60)
	var held [][]byte
	for range 200 {
		held = append(held, mustSeal(t, a, 7, ProtoIPv6, inner))
	}
	for i := range held { // 199, 198, ...: the numbers behind the wrap first
		if _, _, _, err := b.Open(0, dataLocal, dataRemote, bytes.Clone(held[len(held)-1-i]), nil); err != nil {
			t.Fatalf("%d: %v", i, err)
		}
	}
	for i := range held {
		if _, _, _, err := b.Open(0, dataLocal, dataRemote, held[i], nil); reasonOf(err) != wire.Replayed {
			t.Fatalf("%d again: %v", i, err)
		}
	}
}

// TestDataWindow accepts what is reordered up to the window's edge, once.
func TestDataWindow(t *testing.T) {
	for _, esn := range []bool{false, true} {
		a, b := dataPairOf(t, "aes128-gcm", esn)
		inner := innerOf(t, protoIPv4, 40)
		first := mustSeal(t, a, 7, protoIPv4, inner)
		second := mustSeal(t, a, 7, protoIPv4, inner)
		a.table.get(7).out.seq = Window // the next is Window + 1: 1 is behind it, 2 just inside
		newest := mustSeal(t, a, 7, protoIPv4, inner)
		behind := wire.Replayed
		if esn {
			behind = wire.BadICV // taken for the number 2^32 later, RFC 4303 A2.2
		}
		for i, c := range []struct {
			esp  []byte
			want wire.Reason
		}{{newest, ""}, {first, behind}, {second, ""}, {second, wire.Replayed}, {newest, wire.Replayed}} {
			if _, _, _, err := b.Open(0, dataLocal, dataRemote, bytes.Clone(c.esp), nil); (err == nil) != (c.want == "") || err != nil && reasonOf(err) != c.want {
				t.Errorf("ESN %v, %d: %v, want %q", esn, i, err, c.want)
			}
		}
		// A forged packet moves no window.
		forged := mustSeal(t, a, 7, protoIPv4, inner)
		binary.BigEndian.PutUint32(forged[4:], 1<<30)
		if _, _, _, err := b.Open(0, dataLocal, dataRemote, forged, nil); reasonOf(err) != wire.BadICV || b.table.get(9).in.win.top != Window+1 {
			t.Error(err, b.table.get(9).in.win.top)
		}
	}
}

// TestDataConcurrent: many goroutines seal and open by one association; each number is used once, each packet taken once.
func TestDataConcurrent(t *testing.T) {
	for _, suite := range []Suite{"aes128-gcm", "aes128-sha256"} {
		a, b := dataPairOf(t, suite, true)
		inner := innerOf(t, ProtoIPv6, 100)
		const each, workers = 300, 4
		packets := make(chan []byte, 2*each*workers)
		var sealing, opening sync.WaitGroup
		for range workers {
			sealing.Go(func() {
				for range each {
					esp, err := a.Seal(7, ProtoIPv6, inner, nil)
					if err != nil {
						t.Error(err)
					}
					copied := bytes.Clone(esp) // opening destroys what is opened
					packets <- esp
					packets <- copied
				}
			})
		}
		var mu sync.Mutex
		taken, again := 0, 0
		for range workers {
			opening.Go(func() {
				for esp := range packets {
					_, _, got, err := b.Open(0, dataLocal, dataRemote, esp, nil)
					mu.Lock()
					switch {
					case err == nil && bytes.Equal(got, inner):
						taken++
					case reasonOf(err) == wire.Replayed:
						again++
					default:
						t.Error(got, err)
					}
					mu.Unlock()
				}
			})
		}
		// The table changes meanwhile.
		for i := range uint32(50) {
			sa := DataSA{Handle: 100 + i, Peer: "c", SPIIn: DataSPI | 0x5000 + i, SPIOut: 0x5000, Keys: dataKeys(t, suite), Negotiated: true}
			if err := errors.Join(b.Add(sa), b.Remove(sa.Handle)); err != nil {
				t.Error(err)
			}
			_ = b.Status()
		}
		sealing.Wait()
		close(packets)
		opening.Wait()
		if taken != each*workers || again != each*workers || a.table.get(7).out.seq != each*workers {
			t.Errorf("%s: %d taken, %d refused, number %d", suite, taken, again, a.table.get(7).out.seq)
		}
	}
}

// TestDataAdd: what is no association says why, with no word of its keys, and leaves nothing behind.
func TestDataAdd(t *testing.T) {
	good := DataSA{Handle: 1, Peer: "p", SPIIn: DataSPI | 1, SPIOut: 300, Keys: dataKeys(t, "aes128-sha256"), Negotiated: true}
	static := good
	static.Negotiated = false
	for name, c := range map[string]struct {
		change func(*DataSA)
		want   string
	}{
		"handle 0":               {func(s *DataSA) { s.Handle = 0 }, "0 is no handle"},
		"SPI of signalling":      {func(s *DataSA) { s.SPIIn = 0x101 }, "those of data begin at 0x80000000"},
		"reserved SPI":           {func(s *DataSA) { s.SPIOut = 255 }, "RFC 4303 2.1"},
		"short key":              {func(s *DataSA) { s.Keys.In.Encryption = s.Keys.In.Encryption[:8] }, "wants an encryption key of 16 octets, not 8"},
		"static without a store": {func(s *DataSA) { s.Negotiated = false }, "RFC 4303 3.3.3"},
		"static with ESN":        {func(s *DataSA) { s.Negotiated, s.ESN = false, true }, "RFC 4303 2.2.1"},
		"reflected":              {func(s *DataSA) { s.SPIOut, s.Keys.Out = s.SPIIn, s.Keys.In }, "our own packets"},
	} {
		d := NewData(DataConfig{}, nil)
		sa := good
		c.change(&sa)
		other := good
		other.Handle, other.SPIIn = 2, DataSPI|2
		err := d.Add(other, sa)
		if err == nil || !bytes.Contains([]byte(err.Error()), []byte(c.want)) {
			t.Errorf("%s: %v", name, err)
		}
		if d.table.get(1) != nil || d.table.get(2) != nil || d.spis.get(DataSPI|2) != nil {
			t.Errorf("%s: something stays", name)
		}
	}
	d := NewData(DataConfig{}, &Volatile{})
	gcm := static
	gcm.Keys = dataKeys(t, "aes128-gcm")
	if err := d.Add(gcm); err == nil || !bytes.Contains([]byte(err.Error()), []byte("RFC 4106 2")) {
		t.Errorf("static AES-GCM: %v", err)
	}
	if err := d.Add(good); err != nil {
		t.Fatal(err)
	}
	same := good
	same.Handle = 2
	if d.Add(good) == nil || d.Add(same) == nil || d.Remove(5) == nil || d.Remove(1) != nil || d.Add(same) != nil {
		t.Error("twice, or not again")
	}
}

// TestDataRekey: keys change on both sides while packets are on their way, and none is lost; the old ones end with Retire.
func TestDataRekey(t *testing.T) {
	a, b := dataPairOf(t, "aes128-gcm", true)
	inner := innerOf(t, ProtoIPv6, 60)
	fresh := func(n uint32) (here, there DataSA) {
		k := dataKeys(t, "aes256-gcm")
		k.In.Encryption[0], k.Out.Encryption[0] = byte(n), byte(n)
		here = DataSA{Handle: 7, Peer: "b", SPIIn: DataSPI | 0x7000 + n, SPIOut: DataSPI | 0x8000 + n, Keys: k, Negotiated: true, ESN: true}
		return here, DataSA{Handle: 9, Peer: "a", SPIIn: here.SPIOut, SPIOut: here.SPIIn, Keys: k.Swapped(), Negotiated: true, ESN: true}
	}
	opened := func(d *Data, esp []byte) error {
		_, _, got, err := d.Open(0, dataLocal, dataRemote, bytes.Clone(esp), nil)
		if err == nil && !bytes.Equal(got, inner) {
			t.Fatalf("%x", got)
		}
		return err
	}
	here, there := fresh(1)
	flying := mustSeal(t, a, 7, ProtoIPv6, inner)
	late := mustSeal(t, b, 9, ProtoIPv6, inner)
	if err := b.Rekey(there); err != nil {
		t.Fatal(err)
	}
	early := mustSeal(t, b, 9, ProtoIPv6, inner)
	if err := opened(a, early); reasonOf(err) != wire.UnknownSPI {
		t.Errorf("keys that are not there yet: %v", err)
	}
	if err := errors.Join(opened(b, flying), a.Rekey(here), opened(b, mustSeal(t, a, 7, ProtoIPv6, inner)), opened(a, early), opened(a, late)); err != nil {
		t.Fatal(err)
	}
	if s := b.Status(); len(s) != 2 {
		t.Errorf("%d pairs while both are opened with", len(s))
	}
	again := mustSeal(t, a, 7, ProtoIPv6, inner)
	if err := errors.Join(b.Retire(9), b.Retire(9), opened(b, again)); err != nil {
		t.Fatal(err)
	}
	if err := opened(b, flying); reasonOf(err) != wire.UnknownSPI {
		t.Errorf("retired: %v", err)
	}
	// Another change of keys retires by itself what was left.
	next, _ := fresh(2)
	if err := a.Rekey(next); err != nil || a.spis.get(DataSPI|0x1001) != nil {
		t.Fatal(err)
	}
	if err := a.Remove(7); err != nil || len(a.Status()) != 0 {
		t.Error(err, a.Status())
	}
	for _, bad := range []func(*DataSA){func(s *DataSA) { s.Handle = 4 }, func(s *DataSA) { s.SPIIn &^= DataSPI }, func(s *DataSA) { s.SPIOut = 1 }, func(s *DataSA) { s.Keys.In.Encryption = nil }} {
		_, sa := fresh(3)
		if bad(&sa); b.Rekey(sa) == nil || b.spis.get(sa.SPIIn) != nil {
			t.Errorf("%+v is taken", sa.Handle)
		}
	}
	if _, same := fresh(1); b.Rekey(same) == nil || b.Retire(1) == nil {
		t.Error("an SPI twice, or nothing to retire")
	}
	if err := opened(b, mustSealAs(t, here, inner)); err != nil {
		t.Errorf("after refused changes: %v", err)
	}
}

// mustSealAs seals what the owner of an association would, far ahead in its numbers.
func mustSealAs(t *testing.T, sa DataSA, inner []byte) []byte {
	t.Helper()
	d := NewData(DataConfig{}, nil)
	if err := d.Add(sa); err != nil {
		t.Fatal(err)
	}
	d.table.get(sa.Handle).out.seq = 1000
	return mustSeal(t, d, sa.Handle, ProtoIPv6, inner)
}

// TestDataNoAllocations: neither what passes nor what is refused costs memory.
func TestDataNoAllocations(t *testing.T) {
	for _, suite := range []Suite{"aes128-gcm", "aes128-sha256", "null-sha256"} {
		a, b := dataPairOf(t, suite, true)
		inner, dst := innerOf(t, ProtoIPv6, 1400), make([]byte, 0, 2048)
		n := testing.AllocsPerRun(300, func() {
			esp, err := a.Seal(7, ProtoIPv6, inner, dst)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, _, err := b.Open(0, dataLocal, dataRemote, esp, nil); err != nil {
				t.Fatal(err)
			}
			if _, _, _, err := b.Open(0, dataLocal, dataRemote, esp, nil); err == nil {
				t.Fatal("twice")
			}
			esp[0] ^= 0x40
			if _, _, _, err := b.Open(0, dataLocal, dataRemote, esp, nil); err == nil {
				t.Fatal("unknown")
			}
		})
		if n != 0 {
			t.Errorf("%s: %v allocations", suite, n)
		}
	}
}

// TestDataSent: an ICMP error about ESP is believed if it quotes what was sent, a while ago at most.
func TestDataSent(t *testing.T) {
	a, b := dataPairOf(t, "aes128-gcm", true)
	inner := innerOf(t, ProtoIPv6, 60)
	quote := func(spi uint32, seq uint64) []byte {
		return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, spi), uint32(seq))
	}
	const spi = DataSPI | 0x2002
	if a.Sent(quote(spi, 0)) || a.Sent(quote(spi, 1)) {
		t.Error("before anything was sent")
	}
	esp := mustSeal(t, a, 7, ProtoIPv6, inner)
	if !a.Sent(esp) || !a.Sent(esp[:8]) || a.Sent(esp[:7]) || b.Sent(esp) {
		t.Error("the first packet")
	}
	out := a.table.get(7).out
	for _, top := range []uint64{5 << 20, 1<<32 + 5, 7<<32 + 1<<31} {
		out.seq = top
		for seq, want := range map[uint64]bool{top: true, top - 1: true, top - recent + 1: true, top - recent: false, top + 1: false, top + 1<<31: false, top - 3<<20: false} {
			if a.Sent(quote(spi, seq)) != want {
				t.Errorf("%d of %d: not %v", seq, top, want)
			}
		}
		if a.Sent(quote(spi+1, top)) {
			t.Error("another SPI")
		}
	}
	// Another peer has the same SPI; the other association's end takes nothing from it.
	other := DataSA{Handle: 8, Peer: "c", SPIIn: DataSPI | 0x1002, SPIOut: spi, Keys: dataKeys(t, "aes256-gcm"), Negotiated: true}
	if err := errors.Join(a.Add(other), a.Remove(7)); err != nil {
		t.Fatal(err)
	}
	if a.Sent(esp) || len(a.outs) != 1 {
		t.Error("of an association that is no more")
	}
	esp = mustSeal(t, a, 8, ProtoIPv6, inner)
	if !a.Sent(esp) || a.Remove(8) != nil || a.Sent(esp) || len(a.outs) != 0 {
		t.Error("of the other one")
	}
}

// TestDataStatus shows counts and no keys.
func TestDataStatus(t *testing.T) {
	a, b := dataPairOf(t, "aes128-gcm", true)
	inner := innerOf(t, ProtoIPv6, 60)
	esp := mustSeal(t, a, 7, ProtoIPv6, inner)
	for range 2 {
		_, _, _, _ = b.Open(0, dataLocal, dataRemote, bytes.Clone(esp), nil)
	}
	s := b.Status()
	if len(s) != 1 || s[0].Name != "a" || len(s[0].SAs) != 2 {
		t.Fatal(s)
	}
	if in := s[0].SAs[0]; in.Direction != "in" || in.SPI != DataSPI|0x2002 || in.Packets != 1 || in.Octets != uint64(len(esp)) || in.Replayed != 1 {
		t.Errorf("%+v", in)
	}
	if out := a.Status()[0].SAs[1]; out.Direction != "out" || out.Sequence != 1 || out.Packets != 1 || out.Octets != uint64(len(esp)) {
		t.Errorf("%+v", out)
	}
	if text := fmt.Sprintf("%+v %+v", s, a.Status()); bytes.Contains([]byte(text), dataKeys(t, "aes128-gcm").In.Encryption[:8]) {
		t.Error("keys in status")
	}
}
