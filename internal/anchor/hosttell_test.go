package anchor

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/signal"
	"kedge/internal/spec"
	"kedge/wire"
	"kedge/wire/mobility"
)

// TestHostRefreshAdvice: where the store does not outlive the process, nodes are advised to register again earlier (RFC 6275
// 10.3.1); never at or behind the end, and not when they leave.
func TestHostRefreshAdvice(t *testing.T) {
	r := startHosts(t, func(c *Config) { c.DSMIP6.RefreshAdvice = 41 * time.Second })
	advice := func(a *mobility.BindingAck) int {
		v, ok := a.Options.BindingRefreshAdvice()
		if !ok {
			return -1
		}
		return int(v.Interval)
	}
	if got := advice(r.status(native(hoa1, coa1), mobility.Accepted)); got != 10 {
		t.Errorf("advice %d, want 10 units of 4 s", got)
	}
	for lifetime, want := range map[uint16]int{10: -1, 11: 10} {
		if got := advice(r.status(native(hoa1, coa1).with(func(b *bu) { b.lifetime = lifetime }), mobility.Accepted)); got != want {
			t.Errorf("lifetime %d: advice %d, want %d", lifetime, got, want)
		}
	}
	if got := advice(r.status(atHome(hoa1), mobility.Accepted)); got != -1 {
		t.Errorf("advice %d to who leaves", got)
	}
}

// TestHostRefreshRequest: before a lifetime ends, Binding Refresh Requests go to the home address by the way that the node
// registered, in halves of the time that is left, until a Binding Update comes (RFC 6275 9.5.5).
func TestHostRefreshRequest(t *testing.T) {
	seen := netip.MustParseAddrPort("203.0.113.5:50123")
	lead := func(c *Config) { c.DSMIP6.RefreshRequest = 8 * time.Second }
	for name, b := range map[string]bu{
		"native":       native(hoa1, coa1),
		"UDP":          udp(hoa1, ip("10.0.0.7"), seen),
		"41":           in41(hoa1, v4coa),
		"other source": native(hoa1, coa1).with(func(b *bu) { b.src = coa2 }), // the care-of address is what counts then
	} {
		t.Run(name, func(t *testing.T) {
			r := startHosts(t, lead)
			want := b.path()
			if name == "other source" {
				want.Remote = netip.AddrPortFrom(coa1, 0)
			}
			requests := func() (n int) {
				for _, s := range r.sent {
					if _, ok := s.Body.(*mobility.BindingRefreshRequest); ok {
						if s.Path != want {
							t.Fatalf("by %+v, want %+v", s.Path, want)
						}
						n++
					}
				}
				r.sent = nil
				return n
			}
			r.status(b, mobility.Accepted)
			r.pass(292*time.Second - 1)
			if n := requests(); n != 0 {
				t.Fatalf("%d requests too early", n)
			}
			for _, after := range []time.Duration{1, 4 * time.Second, 2 * time.Second} {
				r.pass(after)
				if n := requests(); n != 1 {
					t.Fatalf("%d requests, want one", n)
				}
			}
			r.pass(time.Second)
			if n := requests(); n != 0 {
				t.Fatalf("%d requests, want no fourth", n)
			}
			r.status(b, mobility.Accepted)
			r.pass(291 * time.Second)
			if n := requests(); n != 0 {
				t.Fatalf("%d requests after a refresh", n)
			}
			r.pass(time.Second)
			if n := requests(); n != 1 {
				t.Fatalf("%d requests in the second lifetime", n)
			}
			r.pass(8 * time.Second)
			if len(r.bindings(mn1)) != 0 {
				t.Error("not expired")
			}
			requests()
			// Lifetimes that are short anyway are left to the node, and so is the wait of one that has left.
			r.status(b.with(func(b *bu) { b.lifetime = 4 }), mobility.Accepted)
			r.pass(15 * time.Second)
			r.status(b.with(func(b *bu) { b.lifetime = 0 }), mobility.Accepted)
			if n := requests(); n != 0 {
				t.Errorf("%d requests", n)
			}
			r.leakless()
		})
	}
}

// TestHostReported: packets of a node from elsewhere are counted and told, and move nothing.
func TestHostReported(t *testing.T) {
	seen := netip.MustParseAddrPort("203.0.113.5:50123")
	r := startHosts(t)
	r.status(udp(hoa1, ip("10.0.0.7"), seen, opt29("10.20.0.21", 32)), mobility.Accepted)
	for _, c := range []struct {
		from   string
		inner  string
		detail string
	}{
		{"203.0.113.5:50124", hoa1.String() + "/128", "other NAT port: 50124, registered is 50123"},
		{"203.0.113.6:50123", "10.20.0.21/32", "other address: registered is 203.0.113.5"},
	} {
		n, sent := len(r.emits), len(r.sent)
		r.handle(core.Reported{Reason: string(wire.WrongTunnel), Outer: core.Layer{Local: netip.AddrPortFrom(ha4, port4191), Remote: netip.MustParseAddrPort(c.from)},
			Inner: core.Match{Src: pfx(c.inner)}})
		f := r.emits[n].Fields.(Fields)
		if f.Sub != mn1 || f.Detail != c.detail || f.CareOf != netip.MustParseAddrPort(c.from).Addr() || r.emits[n].Name != "dropped" || len(r.sent) != sent {
			t.Errorf("%+v; sent %v", f, r.sent[sent:])
		}
		r.reaches(hoa1, layerUDP(seen))
	}
	if r.m.refused[wire.WrongTunnel] != 2 {
		t.Errorf("refused %v", r.m.refused)
	}
}

// TestHostTold: status, bindings, explanation and revocation know both kinds of registration.
func TestHostTold(t *testing.T) {
	spec.Covers(t, "S004-3.4-10")
	r := startHosts(t)
	r.ok(attach(mag1, "x@example.net", mac1))
	r.status(native(hoa1, coa1, opt29("10.20.0.10", 32)), mobility.Accepted)
	r.status(udp(hoa4, ip("10.0.0.7"), netip.MustParseAddrPort("203.0.113.5:50123"), dynamic29, opt29p("10.99.0.0", 28)), mobility.Accepted)
	r.status(native(hoa1, coa2).numbered(1), mobility.SequenceOutOfWindow)
	ask := func(body any) any {
		t.Helper()
		r.handle(core.Command{Ref: 9, Body: body})
		if r.reply.Err != nil {
			t.Fatalf("%T: %v", body, r.reply.Err)
		}
		return r.reply.Body
	}
	st := ask(core.GetStatus{}).(core.Status)
	if st.Sessions["active"] != 3 || st.Counters[string(wire.SequenceOld)] != 1 {
		t.Errorf("status %+v", st)
	}
	if !slices.ContainsFunc(st.Notes, func(s string) bool { return strings.Contains(s, "mn6 is unprotected") }) {
		t.Errorf("notes %v", st.Notes)
	}
	for filter, want := range map[string]int{"": 3, mn1: 1, "2001:db8:1000:10::10": 1, "10.99.0.3": 1, "10.99": 1, "10.40.0.2": 1, "nobody": 0} {
		if got := ask(core.GetBindings{Filter: filter}).([]core.Binding); len(got) != want {
			t.Errorf("filter %q: %d bindings, want %d", filter, len(got), want)
		}
	}
	for _, id := range []string{mn1, hoa1.String()} {
		x := ask(core.Explain{ID: id}).(core.Explanation)
		var history []string
		for _, p := range x.History {
			history = append(history, p.What)
		}
		want := []string{
			"BU seq 2: IPv4 home address refused 130",
			"new: none -> active, care-of address 2001:db8:f::1, seq 2",
			"BU seq 1 from 2001:db8:f::2 refused 135",
		}
		if x.ID != mn1 || len(x.Bindings) != 1 || x.Bindings[0].Kind != "host" || !slices.Equal(history, want) ||
			!strings.Contains(x.Profile, "home address 2001:db8:1000:10::10/64, peer mn1, IPv4 10.20.0.21") {
			t.Errorf("%+v", x)
		}
	}
	for _, id := range []string{"10.99.0.0/28", "10.40.0.2", "10.40.0.2/32", hoa4.String() + "/128"} {
		if x := ask(core.Explain{ID: id}).(core.Explanation); x.ID != mn4 {
			t.Errorf("%s is said to be of %q", id, x.ID)
		}
	}
	if x := ask(core.Explain{ID: "three@example.net"}).(core.Explanation); x.Profile != "listed in the config" {
		t.Errorf("profile %q of who has no home address", x.Profile)
	}
	for _, id := range []string{"10.99.9.1", hoa2.String(), "2001:db8:99::1"} {
		if x := ask(core.Explain{ID: id}).(core.Explanation); x.ID != id || len(x.Bindings) != 0 {
			t.Errorf("%s: %+v", id, x)
		}
	}
	if x := ask(core.Explain{ID: "10.99.0.3"}).(core.Explanation); x.ID != mn4 || !strings.Contains(x.Profile, "networks 10.99.0.0/28") {
		t.Errorf("%+v", x)
	}
	if got := ask(core.Revoke{ID: "10.99.0.3"}).(core.Revoked); got != (core.Revoked{Sessions: 1}) {
		t.Errorf("revoked %+v", got)
	}
	r.unreached(hoa4)
	if got := ask(core.Revoke{ID: mn1}).(core.Revoked); got.Sessions != 1 {
		t.Errorf("revoked %+v", got)
	}
	r.unreached(hoa1)
	if r.handle(core.Command{Ref: 9, Body: core.Revoke{ID: mn1}}); r.reply.Err == nil {
		t.Error("revoked twice")
	}
	// It bars nobody, and what was ordered stays ordered.
	r.status(native(hoa1, coa2).numbered(2), mobility.SequenceOutOfWindow)
	r.status(native(hoa1, coa2).numbered(9), mobility.Accepted)
	r.reaches(hoa1, layer6(coa2))
	// While a change is under way it cannot be ended.
	r.hold = true
	r.handle(r.hostMessage(native(hoa1, coa1).numbered(10)))
	if r.handle(core.Command{Ref: 9, Body: core.Revoke{ID: mn1}}); r.reply.Err == nil || !strings.Contains(r.reply.Err.Error(), "under way") {
		t.Errorf("%v", r.reply.Err)
	}
	r.flush()
	r.leakless()
}

// TestHostAnswerOnTheWire: the octets of answers over IPv4: protocol 41 with the mapped address and the home address in a type
// 2 routing header (draft-soliman-v4v6-mipv6 3.4), UDP without either (RFC 5555 4.2).
func TestHostAnswerOnTheWire(t *testing.T) {
	spec.Covers(t, "S004-3.2.1-01", "S004-3.2.1-03", "S004-3.4-17", "S004-3.4-18", "S004-3.4-19", "S004-3.4-23")
	seen := netip.MustParseAddrPort("203.0.113.5:50123")
	r := startHosts(t)
	packet := func(b bu) (core.Chain, []byte) {
		t.Helper()
		b.auth = core.Auth{Kind: "esp", Peer: "mn1"}
		r.status(b, mobility.Accepted)
		s := r.sent[len(r.sent)-1]
		dst := s.Path.Remote.Addr()
		if s.Path.Home.IsValid() {
			dst = s.Path.Home
		}
		raw, err := mobility.Append(nil, s.Body.(mobility.Message), s.Path.Local.Addr(), dst)
		if err != nil {
			t.Fatal(err)
		}
		p := core.Packet{Src: s.Path.Local, Dst: s.Path.Remote, DstHome: s.Path.Home, Outer: s.Path.Outer, Auth: core.Auth{Kind: "none"}, B: raw}
		out, err := signal.NewCodec(signal.Config{Mapped: true}).Out(r.now, &p, nil)
		if err != nil {
			t.Fatal(err)
		}
		return s.Path.Outer, out
	}
	outer, b := packet(in41(hoa1, v4coa, short("10.20.0.21", 1)))
	coa, home, ha := ip("::ffff:192.0.2.77").As16(), hoa1.As16(), lmaa.As16()
	if b[6] != 43 || [16]byte(b[8:]) != ha || [16]byte(b[24:]) != coa || b[40] != 135 || b[41] != 2 || b[42] != 2 || b[43] != 1 || [16]byte(b[48:]) != home || b[64+2] != 6 {
		t.Errorf("packet %x", b)
	}
	if outer.N != 1 || outer.Layer[0] != layer4(v4coa) {
		t.Errorf("in %+v", outer)
	}
	// The acknowledgement option: type, the draft's length, status, reserved octet, address, on an octet that four divides.
	if at := bytes.Index(b[64:], []byte{30, 1, 0, 0, 10, 20, 0, 21}); at < 12 || at%4 != 0 {
		t.Errorf("option at octet %d of the Mobility Header %x", at, b[64:])
	}
	// Data of the node never has the mapped form.
	if got, _ := r.chain(hoa1); got != layer4(v4coa) {
		t.Errorf("data in %+v", got)
	}
	outer, b = packet(udp(hoa1, ip("10.0.0.7"), seen))
	if b[6] != 135 || [16]byte(b[8:]) != ha || [16]byte(b[24:]) != home {
		t.Errorf("packet %x", b)
	}
	if outer.N != 1 || outer.Layer[0] != layerUDP(seen) {
		t.Errorf("in %+v", outer)
	}
}
