package homeagent

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"kedge/internal/binding"
	"kedge/internal/core"
	"kedge/wire"
	"kedge/wire/mobility"
)

var (
	at   = core.Now{Boot: time.Hour, Wall: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)}
	hoa  = netip.MustParseAddr("2001:db8:1::10")
	coa  = netip.MustParseAddr("2001:db8:2::20")
	ha   = netip.MustParseAddr("2001:db8::1")
	ha4  = netip.MustParseAddr("198.51.100.1")
	coa4 = netip.MustParseAddr("192.0.2.7")
)

// samples are registrations of every kind.
func samples() []Registration {
	base := Registration{ID: 7, Node: "a@x", Home: hoa, State: binding.Active, Framing: Native, Dialect: RFC5555, CareOf: coa, Local: ha,
		Auth: core.Auth{Kind: "esp", SPI: 0x101, Peer: "a"}, Sequence: 9, Lifetime: 75, Expires: at.Boot + time.Minute, Since: 5}
	udp, p41, gone := base, base, base
	udp.Framing, udp.CareOf, udp.Port, udp.Outer, udp.UDP, udp.NAT = UDP, coa4, 5000, netip.AddrPortFrom(ha4, 4191), true, true
	udp.V4 = []V4Home{{Prefix: netip.MustParsePrefix("10.0.0.9/32"), Dynamic: true}, {Prefix: netip.MustParsePrefix("10.9.0.0/24")}}
	p41.Framing, p41.Dialect, p41.CareOf, p41.Outer, p41.Both = Proto41, Soliman00, coa4, netip.AddrPortFrom(ha4, 0), true
	gone.State, gone.MessageID, gone.Domain = binding.Deprecated, 1<<63, 3
	return []Registration{base, udp, p41, gone}
}

func TestRecord(t *testing.T) {
	for n, h := range samples() {
		b := h.Encode(at)
		back, expires, err := Decode(h.ID, b)
		if err != nil || !expires.Equal(at.Wall.Add(time.Minute)) {
			t.Fatalf("%d: %v, %v", n, expires, err)
		}
		h.Expires, h.place = 0, -1
		if !reflect.DeepEqual(back, h) {
			t.Errorf("%d: %+v, want %+v", n, back, h)
		}
		for cut := range b {
			if _, _, err := Decode(h.ID, b[:cut]); err == nil {
				t.Errorf("%d: %d of %d octets decode", n, cut, len(b))
			}
		}
	}
}

// TestRecordSane: a record that no registration of this program has is damaged.
func TestRecordSane(t *testing.T) {
	all := samples()
	for name, change := range map[string]func(*Registration){
		"no state":        func(h *Registration) { h.State = binding.None },
		"pending":         func(h *Registration) { h.State = binding.Pending },
		"framing":         func(h *Registration) { h.Framing = Proto41 + 1 },
		"dialect":         func(h *Registration) { h.Dialect = Soliman00 + 1 },
		"nobody's":        func(h *Registration) { h.Node = "" },
		"home address":    func(h *Registration) { h.Home = netip.MustParseAddr("ff02::1") },
		"anchor":          func(h *Registration) { h.Local = coa4 },
		"care-of address": func(h *Registration) { h.CareOf = coa4 },
		"too many":        func(h *Registration) { h.V4 = networks(MaxV4 + 1) },
		"no prefix":       func(h *Registration) { h.V4 = []V4Home{{Prefix: netip.MustParsePrefix("10.9.0.1/24")}} },
	} {
		h := all[0]
		change(&h)
		if _, _, err := Decode(h.ID, h.Encode(at)); err == nil {
			t.Errorf("%s: decodes", name)
		}
		if h = all[1]; name == "care-of address" {
			h.CareOf = coa
			if _, _, err := Decode(h.ID, h.Encode(at)); err == nil {
				t.Errorf("%s, over IPv4: decodes", name)
			}
			h = all[1]
			h.Outer = netip.AddrPort{}
			if _, _, err := Decode(h.ID, h.Encode(at)); err == nil {
				t.Errorf("%s, over IPv4, to nowhere: decodes", name)
			}
		}
	}
	full := all[0]
	full.V4 = networks(MaxV4)
	if back, _, err := Decode(full.ID, full.Encode(at)); err != nil || len(back.V4) != MaxV4 {
		t.Errorf("%+v, %v", back, err)
	}
}

func networks(n int) (out []V4Home) {
	for k := range n {
		out = append(out, V4Home{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 9, byte(k), 0}), 24)})
	}
	return out
}

// FuzzDecode: no record makes it panic, and what it takes is written again as it was read.
func FuzzDecode(f *testing.F) {
	for _, h := range samples() {
		f.Add(h.Encode(at))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, expires, err := Decode(1, b)
		if err != nil {
			return
		}
		h.Expires = at.Boot + expires.Sub(at.Wall)
		again, _, err := Decode(1, h.Encode(at))
		if err != nil {
			t.Fatalf("%+v: %v", h, err)
		}
		again.Expires = h.Expires
		if !reflect.DeepEqual(again, h) {
			t.Fatalf("%+v, want %+v", again, h)
		}
		h.Chain()
		h.Path()
		if ops := h.Ops(0, true); len(ops) != 1+len(h.Keys()) {
			t.Fatalf("%d operations for %v", len(ops), h.Keys())
		}
	})
}

// FuzzRead: whatever comes in whatever headers, the care-of address that is accepted is a unicast address of the framing's
// family, it is the one on the wire where that cannot lie, and an answer to it can be built.
func FuzzRead(f *testing.F) {
	add := func(src, hao, seen netip.Addr, port uint16, o mobility.Options) {
		b, err := mobility.Append(nil, &mobility.BindingUpdate{Sequence: 1, Flags: mobility.BUHome | mobility.BUAck, Lifetime: 75, Options: o}, hoa, ha)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(bytes16(src), bytes16(hao), bytes16(seen), port, b)
	}
	v4 := mobility.IPv4HomeAddress{Addr: netip.MustParseAddr("10.0.0.9"), PrefixLen: 32}
	add(coa, hoa, netip.Addr{}, 0, mobility.Options(nil).Add(mobility.AlternateCareOf{Addr: coa}, v4))
	add(hoa, netip.Addr{}, coa4, 4191, mobility.Options(nil).Add(mobility.IPv4CareOf{Addr: coa4}, v4))
	add(mapped(coa4), hoa, coa4, 0, mobility.Options(nil).Add(mobility.AlternateCareOf{Addr: mapped(coa4)}, mobility.IPv4HomeAddress{Addr: v4.Addr, Short: 1}))
	add(hoa, netip.Addr{}, netip.Addr{}, 0, nil)
	f.Fuzz(func(t *testing.T, src, hao, seen []byte, port uint16, b []byte) {
		p := core.Path{Local: netip.AddrPortFrom(ha, 0), Remote: netip.AddrPortFrom(addrOf(src), 0), Home: addrOf(hao)}
		if a := addrOf(seen); a.IsValid() {
			local := uint16(0)
			if port != 0 {
				local = 4191
			}
			p.Outer.N = 1
			p.Outer.Layer[0] = core.Layer{Local: netip.AddrPortFrom(ha4, local), Remote: netip.AddrPortFrom(a.Unmap(), port)}
		}
		msg, err := mobility.Parse(b, hoa, ha)
		bu, ok := msg.(*mobility.BindingUpdate)
		if err != nil || !ok {
			return
		}
		r, f := Read(p, bu, &Rules{Dialects: DialectSet(RFC5555, Soliman00)})
		if f != nil {
			if !f.Silent || f.Reason == "" {
				t.Fatalf("%+v", f)
			}
			return
		}
		if !routable6(r.Home) || r.Delete == r.CareOf.IsValid() {
			t.Fatalf("%+v", r)
		}
		if r.CareOf.IsValid() {
			if r.CareOf.Is4() != (r.Framing != Native) || r.CareOf.IsMulticast() || r.CareOf.IsLoopback() || r.CareOf == r.Home {
				t.Fatalf("care-of address %v in %+v", r.CareOf, r)
			}
			if r.Framing != Native && r.CareOf != p.Outer.Layer[0].Remote.Addr() {
				t.Fatalf("care-of address %v, seen %v", r.CareOf, p.Outer.Layer[0].Remote)
			}
		}
		var acks []mobility.IPv4AddressAck
		for _, v := range r.V4 {
			_, prefix, f := V4Ask(v)
			acks = append(acks, V4Ack(v, prefix, f))
		}
		ack := r.Accept(Answer{Lifetime: 75, Acks: acks, UDP: r.NAT, NATRefresh: 110 * time.Second, Advice: 10})
		if _, err := mobility.Append(nil, ack, ha, hoa); err != nil {
			t.Fatalf("%v: %+v", err, ack)
		}
	})
}

func bytes16(a netip.Addr) []byte {
	if !a.IsValid() {
		return nil
	}
	b := a.As16()
	return b[:]
}

func addrOf(b []byte) netip.Addr {
	if len(b) != 16 {
		return netip.Addr{}
	}
	return netip.AddrFrom16([16]byte(b))
}

// TestTable: replaced as a whole, owned by one, and due in the right order.
func TestTable(t *testing.T) {
	tab := NewTable(0)
	all := samples()
	a, b := all[0], all[1]
	b.ID, b.Home = 8, netip.MustParseAddr("2001:db8:1::11")
	for _, h := range []Registration{a, b} {
		if _, err := tab.Put(h); err != nil {
			t.Fatal(err)
		}
	}
	thief := a
	thief.V4 = []V4Home{{Prefix: netip.MustParsePrefix("10.0.0.9/32")}}
	if _, err := tab.Put(thief); err != ErrOwned {
		t.Errorf("%v, want ErrOwned", err)
	}
	if h := tab.ByHome(0, netip.MustParsePrefix("10.0.0.9/32")); h == nil || h.ID != 8 {
		t.Errorf("%+v", h)
	}
	b.V4 = nil
	b.Expires = at.Boot + 30*time.Second
	if _, err := tab.Put(b); err != nil {
		t.Fatal(err)
	}
	if _, err := tab.Put(thief); err != nil {
		t.Errorf("what was given up is still owned: %v", err)
	}
	if tab.Len() != 2 || tab.Count(binding.Active) != 2 {
		t.Errorf("%d, %d", tab.Len(), tab.Count(binding.Active))
	}
	var order []core.ID
	for {
		next, ok := tab.Next()
		if !ok {
			break
		}
		h, over := tab.Due(core.Now{Boot: next})
		if !over || next != h.Expires {
			t.Fatalf("%+v is due at %v", h, next)
		}
		order = append(order, h.ID)
		tab.Remove(h)
	}
	if !slices.Equal(order, []core.ID{8, 7}) || tab.Len() != 0 || len(tab.byHome) != 0 || tab.Count(binding.Active) != 0 {
		t.Errorf("order %v, left %+v", order, tab)
	}
}

// TestReadChains: in headers that no dialect has there is no signalling.
func TestReadChains(t *testing.T) {
	rules := Rules{Dialects: DialectSet(RFC5555, Soliman00)}
	bu := &mobility.BindingUpdate{Flags: mobility.BUHome, Lifetime: 75, Options: mobility.Options{}.Add(mobility.IPv4CareOf{Addr: coa4})}
	good := core.Path{Local: netip.AddrPortFrom(ha, 0), Remote: netip.AddrPortFrom(hoa, 0), Outer: core.Chain{N: 1}}
	good.Outer.Layer[0] = core.Layer{Local: netip.AddrPortFrom(ha4, port), Remote: netip.AddrPortFrom(coa4, 5000)}
	if _, f := Read(good, bu, &rules); f != nil {
		t.Fatalf("%+v", f)
	}
	for name, change := range map[string]func(*core.Chain){
		"two layers":        func(c *core.Chain) { c.N = 2 },
		"TLV header":        func(c *core.Chain) { c.Layer[0].TLV = 1 },
		"GRE":               func(c *core.Chain) { c.Layer[0].GRE = true },
		"from IPv6":         func(c *core.Chain) { c.Layer[0].Remote = netip.AddrPortFrom(coa, 5000) },
		"to IPv6":           func(c *core.Chain) { c.Layer[0].Local = netip.AddrPortFrom(ha, port) },
		"all of it at once": func(c *core.Chain) { c.N, c.Layer[0].TLV, c.Layer[0].GRE = 2, 1, true },
	} {
		p := good
		change(&p.Outer)
		if _, f := Read(p, bu, &rules); f == nil || !f.Silent || f.Reason != wire.NotSignalling {
			t.Errorf("%s: %+v", name, f)
		}
	}
}
