package revocation

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"kedge/internal/core"
	"kedge/internal/spec"
	"kedge/wire"
	"kedge/wire/mobility"
)

var (
	lmaa = netip.MustParseAddr("2001:db8:a::1")
	mag1 = netip.MustParseAddr("2001:db8:a::11")
	mag2 = netip.MustParseAddr("2001:db8:a::12")
	hnp1 = netip.MustParsePrefix("2001:db8:1000::/64")
	hnp2 = netip.MustParsePrefix("2001:db8:1000:1::/64")
	hoa  = netip.MustParsePrefix("10.20.0.10/16")
)

const (
	host = "h1@example.net"
	ms   = time.Millisecond
)

func at(d time.Duration) core.Now { return core.Now{Boot: time.Hour + d} }

func left(id core.ID, gw netip.Addr) Registration {
	return Registration{ID: id, Node: host, Gateway: gw, Anchor: lmaa, CareOf: gw, Prefixes: []netip.Prefix{hnp1}, V4: hoa,
		LinkLayer: []byte{2, 0, 0, 0, 0, 10}, Timestamp: 77}
}

func initiator(c Config) *Initiator { return New(c, bytes.NewReader([]byte{0xff, 0xfd})) }

func ack(m *mobility.Revocation, status uint8) *mobility.Revocation {
	return &mobility.Revocation{Ack: true, Code: status, Sequence: m.Sequence, Proxy: m.Proxy, IPv4Only: m.IPv4Only,
		Options: mobility.Options(nil).Add(mobility.MobileNodeID{Subtype: 1, ID: host})}
}

func must(t *testing.T, r *Initiator, now core.Now, reg Registration) Outgoing {
	t.Helper()
	o, reason := r.Revoke(now, reg, mobility.TriggerHandoverSameType)
	if reason != "" {
		t.Fatalf("not sent: %s", reason)
	}
	return o
}

// TestIndication holds the contents of every form, after a way through the codec.
func TestIndication(t *testing.T) {
	spec.Covers(t, "RFC5846-5.1", "RFC5846-6.1.1", "RFC5846-8.1")
	for name, c := range map[string]struct {
		change func(*Registration)
		v      bool
		to     netip.Addr
		want   []mobility.Value
	}{
		"dual stack": {func(*Registration) {}, false, mag1, []mobility.Value{
			mobility.HomeNetworkPrefix{Prefix: hnp1}, mobility.Timestamp{Value: 77}, mobility.LinkLayerID{ID: []byte{2, 0, 0, 0, 0, 10}}}},
		"two prefixes, nothing known": {func(r *Registration) {
			r.Prefixes, r.V4, r.LinkLayer, r.Timestamp = []netip.Prefix{hnp1, hnp2}, netip.Prefix{}, nil, 0
		}, false, mag1, []mobility.Value{mobility.HomeNetworkPrefix{Prefix: hnp1}, mobility.HomeNetworkPrefix{Prefix: hnp2}}},
		"IPv4 only": {func(r *Registration) { r.Prefixes, r.LinkLayer = nil, nil }, true, mag1, []mobility.Value{
			mobility.IPv4HomeAddressRequest{PrefixLen: 16, Addr: hoa.Addr()}, mobility.Timestamp{Value: 77}}},
		"IPv4 only, draft": {func(r *Registration) { r.Prefixes, r.LinkLayer, r.Draft02 = nil, nil, true }, true, mag1, []mobility.Value{
			mobility.IPv4HomeAddress{PrefixLen: 16, Addr: hoa.Addr()}, mobility.Timestamp{Value: 77}}},
		"another care-of address": {func(r *Registration) { r.CareOf, r.LinkLayer = mag2, nil }, false, mag2, []mobility.Value{
			mobility.HomeNetworkPrefix{Prefix: hnp1}, mobility.Timestamp{Value: 77}}},
		"another care-of address, keys": {func(r *Registration) { r.CareOf, r.LinkLayer, r.ESP = mag2, nil, true }, false, mag1, []mobility.Value{
			mobility.HomeNetworkPrefix{Prefix: hnp1}, mobility.AlternateCareOf{Addr: mag2}, mobility.Timestamp{Value: 77}}},
	} {
		t.Run(name, func(t *testing.T) {
			reg := left(1, mag1)
			c.change(&reg)
			o := must(t, initiator(Config{}), at(0), reg)
			if o.Local != lmaa || o.Remote != c.to {
				t.Errorf("from %v to %v, want %v", o.Local, o.Remote, c.to)
			}
			raw, err := mobility.Append(nil, o.Message, o.Local, o.Remote)
			if err != nil {
				t.Fatal(err)
			}
			back, err := mobility.Parse(raw, o.Local, o.Remote)
			if err != nil {
				t.Fatal(err)
			}
			m := back.(*mobility.Revocation)
			if m.Ack || m.Code != mobility.TriggerHandoverSameType || !m.Proxy || m.Global || m.IPv4Only != c.v || m.Sequence != 0xfffe {
				t.Errorf("%+v", m)
			}
			want := append([]mobility.Value{mobility.MobileNodeID{Subtype: 1, ID: host}}, c.want...)
			if got := slices.Collect(m.Options.Values()); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("options\n%v\nwant\n%v", got, want)
			}
		})
	}
}

// TestRetransmission: the same message after 1 s, given up 2 s later; with the variables of section 11 changed, so.
func TestRetransmission(t *testing.T) {
	spec.Covers(t, "RFC5846-6.3", "RFC5846-11")
	for _, c := range []struct {
		cfg  Config
		at   []time.Duration
		ends time.Duration
	}{
		{Config{}, []time.Duration{1000 * ms}, 3000 * ms},
		{Config{Retries: -1}, nil, 1000 * ms},
		{Config{Retries: 4, MinDelay: 500 * ms, MaxTimeout: 1500 * ms}, []time.Duration{500 * ms, 1500 * ms, 3000 * ms, 4500 * ms}, 6000 * ms},
	} {
		r := initiator(c.cfg)
		first := must(t, r, at(0), left(1, mag1))
		if first.Again {
			t.Error("the first is called a repetition")
		}
		for _, d := range c.at {
			if when, ok := r.Deadline(); !ok || when != at(d).Boot {
				t.Fatalf("deadline %v, want %v", when-time.Hour, d)
			}
			if send, ends := r.Tick(at(d - 1)); len(send)+len(ends) > 0 {
				t.Fatalf("something happens before %v", d)
			}
			send, ends := r.Tick(at(d))
			if len(send) != 1 || len(ends) != 0 || send[0].Message != first.Message || !send[0].Again || send[0].Remote != mag1 {
				t.Fatalf("at %v: %v %v", d, send, ends)
			}
		}
		if send, ends := r.Tick(at(c.ends - 1)); len(send)+len(ends) > 0 {
			t.Error("given up early")
		}
		send, ends := r.Tick(at(c.ends))
		if want := (End{ID: 1, Node: host, Gateway: mag1, Seq: 0xfffe}); len(send) != 0 || len(ends) != 1 || ends[0] != want {
			t.Fatalf("%v %v, want %v", send, ends, want)
		}
		if _, ok := r.Deadline(); ok || r.Outstanding() != 0 {
			t.Error("something is left")
		}
		if _, reason := r.Acknowledged(at(c.ends), mag1, ack(first.Message, 0)); reason != wire.SequenceMismatch {
			t.Errorf("an answer that is too late: %q", reason)
		}
	}
}

// TestAcknowledged: only the right answer from the right gateway ends it.
func TestAcknowledged(t *testing.T) {
	spec.Covers(t, "RFC5846-6.2.2")
	r := initiator(Config{})
	o := must(t, r, at(0), left(1, mag1))
	for name, c := range map[string]struct {
		from   netip.Addr
		change func(*mobility.Revocation)
		want   wire.Reason
	}{
		"another number":  {mag1, func(m *mobility.Revocation) { m.Sequence++ }, wire.SequenceMismatch},
		"another gateway": {mag2, func(*mobility.Revocation) {}, wire.UnknownPeer},
		"another node": {mag1, func(m *mobility.Revocation) {
			m.Options = mobility.Options(nil).Add(mobility.MobileNodeID{Subtype: 1, ID: "x@y"})
		}, wire.IdentifierMismatch},
		"without P":          {mag1, func(m *mobility.Revocation) { m.Proxy = false }, wire.BadValue},
		"with G":             {mag1, func(m *mobility.Revocation) { m.Global = true }, wire.BadValue},
		"with V":             {mag1, func(m *mobility.Revocation) { m.IPv4Only = true }, wire.BadValue},
		"an indication":      {mag1, func(m *mobility.Revocation) { m.Ack = false }, wire.UnsupportedMessage},
		"its own indication": {mag1, func(m *mobility.Revocation) { *m = *o.Message }, wire.UnsupportedMessage},
	} {
		m := ack(o.Message, 0)
		c.change(m)
		if _, reason := r.Acknowledged(at(0), c.from, m); reason != c.want || r.Outstanding() != 1 {
			t.Errorf("%s: %q, want %q; %d outstanding", name, reason, c.want, r.Outstanding())
		}
	}
	bare := ack(o.Message, 0)
	bare.Options = nil // no option is required, 5.2
	end, reason := r.Acknowledged(at(0), mag1, bare)
	if want := (End{ID: 1, Node: host, Gateway: mag1, Seq: o.Message.Sequence, Answered: true}); reason != "" || end != want {
		t.Errorf("%v %q", end, reason)
	}
	if _, reason := r.Acknowledged(at(0), mag1, bare); reason != wire.SequenceMismatch {
		t.Errorf("the second copy: %q", reason)
	}
	for _, status := range []uint8{mobility.RevocationPartial, mobility.RevocationNoBinding, mobility.RevocationNodeAttached} {
		o := must(t, r, at(0), left(2, mag1))
		end, _ := r.Acknowledged(at(0), mag1, ack(o.Message, status))
		if !end.Answered || end.Status != status {
			t.Errorf("status %d: %+v", status, end)
		}
	}
	// From the address that signals, though it was sent to the care-of address.
	reg := left(3, mag1)
	reg.CareOf = mag2
	o = must(t, r, at(0), reg)
	if _, reason := r.Acknowledged(at(0), mag1, ack(o.Message, 0)); reason != "" {
		t.Errorf("from the signalling address: %q", reason)
	}
}

// TestReturn: the host comes back to the gateway that is being told; a later departure begins anew, with another number.
func TestReturn(t *testing.T) {
	spec.Covers(t, "RFC5846-8.1")
	r := initiator(Config{})
	o := must(t, r, at(0), left(1, mag1))
	must(t, r, at(0), left(2, mag1))
	r.Settled(1, mag2)
	if r.Outstanding() != 2 {
		t.Fatal("ended by another gateway's registration")
	}
	r.Settled(1, mag1)
	r.Settled(1, mag1)
	if r.Outstanding() != 1 {
		t.Fatal("not ended")
	}
	if _, reason := r.Acknowledged(at(0), mag1, ack(o.Message, 0)); reason != wire.SequenceMismatch {
		t.Errorf("an answer about what is over: %q", reason)
	}
	a := must(t, r, at(10*ms), left(1, mag1))
	b := must(t, r, at(20*ms), left(1, mag1)) // left again before the first was answered
	if a.Message.Sequence == b.Message.Sequence || a.Message.Sequence == o.Message.Sequence || r.Outstanding() != 2 {
		t.Errorf("numbers %d, %d, %d; %d outstanding", o.Message.Sequence, a.Message.Sequence, b.Message.Sequence, r.Outstanding())
	}
	if _, reason := r.Acknowledged(at(20*ms), mag1, ack(b.Message, 0)); reason != "" {
		t.Error(reason)
	}
}

// TestUnsupported: a gateway that does not know revocation is left alone, until it restarts or long after.
func TestUnsupported(t *testing.T) {
	spec.Covers(t, "RFC5846-6.2")
	hushes := map[string]func(r *Initiator, o Outgoing){
		"binding error": func(r *Initiator, o Outgoing) {
			if !r.Unsupported(at(0), mag1) {
				t.Error("not taken")
			}
		},
	}
	for _, s := range []uint8{mobility.RevocationTriggerNotSupported, mobility.RevocationFunctionNotSupported, mobility.RevocationProxyNotSupported} {
		hushes[fmt.Sprint("status ", s)] = func(r *Initiator, o Outgoing) { r.Acknowledged(at(0), mag1, ack(o.Message, s)) }
	}
	for name, hush := range hushes {
		t.Run(name, func(t *testing.T) {
			r := initiator(Config{})
			if r.Unsupported(at(0), mag1) {
				t.Error("a Binding Error is taken though nothing was asked")
			}
			o := must(t, r, at(0), left(1, mag1))
			must(t, r, at(0), left(2, mag1))
			other := must(t, r, at(0), left(3, mag2))
			hush(r, o)
			if r.Outstanding() != 1 {
				t.Errorf("%d outstanding, want that to the other gateway", r.Outstanding())
			}
			if _, reason := r.Revoke(at(UnsupportedFor-1), left(4, mag1), 2); reason != wire.UnsupportedMessage {
				t.Errorf("asked again: %q", reason)
			}
			if _, reason := r.Acknowledged(at(0), mag2, ack(other.Message, 0)); reason != "" {
				t.Errorf("the other gateway's answer: %q", reason)
			}
			must(t, r, at(UnsupportedFor), left(4, mag1))
			r.Unsupported(at(UnsupportedFor), mag1)
			r.Restarted(mag1)
			must(t, r, at(UnsupportedFor), left(5, mag1))
			r.Restarted(mag1)
			if r.Outstanding() != 0 {
				t.Error("a gateway that restarted has nothing to be told")
			}
		})
	}
}

// TestSilentGateway: three indications without an answer, and it is left alone for a while; one answer and all is well.
func TestSilentGateway(t *testing.T) {
	r := initiator(Config{})
	end := 3 * time.Second
	now := time.Duration(0)
	miss := func(id core.ID) {
		t.Helper()
		must(t, r, at(now), left(id, mag1))
		r.Tick(at(now + time.Second))
		now += end
		if _, ends := r.Tick(at(now)); len(ends) != 1 {
			t.Fatalf("%v", ends)
		}
	}
	miss(1)
	miss(2)
	o := must(t, r, at(now), left(3, mag1))
	r.Acknowledged(at(now), mag1, ack(o.Message, 0))
	miss(4)
	miss(5)
	waits := must(t, r, at(now+end-ms), left(7, mag1))
	miss(6)
	if _, reason := r.Revoke(at(now), left(8, mag1), 2); reason != wire.NoAnswer {
		t.Errorf("asked a fourth time: %q", reason)
	}
	if r.Outstanding() != 0 {
		t.Errorf("%d outstanding, %v is sent again in vain", r.Outstanding(), waits)
	}
	must(t, r, at(now), left(9, mag2))
	r.Restarted(mag2)
	now += SilentFor
	miss(10) // one chance
	if _, reason := r.Revoke(at(now), left(11, mag1), 2); reason != wire.NoAnswer {
		t.Errorf("asked at once again: %q", reason)
	}
	now += SilentFor
	o = must(t, r, at(now), left(12, mag1))
	r.Acknowledged(at(now), mag1, ack(o.Message, 0))
	miss(13)
	must(t, r, at(now), left(14, mag1))
}

// TestLimits: the table is bounded, numbers do not collide, and the memory of silent gateways is bounded too.
func TestLimits(t *testing.T) {
	spec.Covers(t, "RFC5846-5.1")
	r := initiator(Config{})
	seen := map[uint16]bool{}
	for i := range MaxOutstanding {
		o := must(t, r, at(0), left(core.ID(i), mag1))
		if seen[o.Message.Sequence] {
			t.Fatal("a number is used twice")
		}
		seen[o.Message.Sequence] = true
	}
	if _, reason := r.Revoke(at(0), left(MaxOutstanding, mag1), 2); reason != wire.PendingLimit {
		t.Errorf("one more: %q", reason)
	}
	must(t, r, at(0), left(7, mag1)) // in place of its own
	if r.Outstanding() != MaxOutstanding {
		t.Errorf("%d outstanding", r.Outstanding())
	}
	// Numbers wrap around, past those that are still out.
	for range 1 << 16 {
		o := must(t, r, at(0), left(8, mag1))
		if p := r.bySeq[o.Message.Sequence]; p == nil || p.id != 8 {
			t.Fatal("a number is used twice")
		}
	}
	for i := range MaxGateways + 10 {
		a := mag1.As16()
		a[8], a[9], a[10] = byte(i>>16), byte(i>>8), byte(i)
		r.remember(netip.AddrFrom16(a), quiet{missed: 1})
	}
	if len(r.quiet) != MaxGateways {
		t.Errorf("%d gateways are remembered", len(r.quiet))
	}
}

// TestRandom: whatever happens in whatever order, the tables agree and everything ends.
func TestRandom(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r, now := initiator(Config{Retries: rapid.IntRange(-1, 3).Draw(rt, "retries")}), time.Duration(0)
		gateways := []netip.Addr{mag1, mag2}
		var sent []*mobility.Revocation
		rt.Repeat(map[string]func(*rapid.T){
			"leave": func(rt *rapid.T) {
				o, reason := r.Revoke(at(now), left(core.ID(rapid.IntRange(1, 4).Draw(rt, "id")), rapid.SampledFrom(gateways).Draw(rt, "gw")), 2)
				if reason == "" {
					sent = append(sent, o.Message)
				}
			},
			"return": func(rt *rapid.T) {
				r.Settled(core.ID(rapid.IntRange(1, 4).Draw(rt, "id")), rapid.SampledFrom(gateways).Draw(rt, "gw"))
			},
			"answer": func(rt *rapid.T) {
				if len(sent) > 0 {
					status := rapid.SampledFrom([]uint8{0, 1, 128, 132, 133, 255}).Draw(rt, "status")
					r.Acknowledged(at(now), rapid.SampledFrom(gateways).Draw(rt, "gw"), ack(rapid.SampledFrom(sent).Draw(rt, "seq"), status))
				}
			},
			"error":   func(rt *rapid.T) { r.Unsupported(at(now), rapid.SampledFrom(gateways).Draw(rt, "gw")) },
			"restart": func(rt *rapid.T) { r.Restarted(rapid.SampledFrom(gateways).Draw(rt, "gw")) },
			"time": func(rt *rapid.T) {
				now += time.Duration(rapid.IntRange(0, 400).Draw(rt, "10ms")) * 10 * ms
				r.Tick(at(now))
			},
			"": func(rt *rapid.T) {
				if len(r.bySeq) != len(r.byKey) || len(r.bySeq) != r.due.Len() {
					rt.Fatalf("%d, %d, %d", len(r.bySeq), len(r.byKey), r.due.Len())
				}
				for i, p := range r.due.Items() {
					if p.index != i || r.bySeq[p.out.Message.Sequence] != p || r.byKey[p.key] != p {
						rt.Fatal("the tables do not agree")
					}
				}
				if d, ok := r.Deadline(); ok && d < at(now).Boot-time.Millisecond {
					rt.Fatalf("overdue since %v", at(now).Boot-d)
				}
			},
		})
		for range 20 {
			now += 2 * time.Second
			r.Tick(at(now))
		}
		if r.Outstanding() != 0 {
			rt.Fatal("one never ends")
		}
	})
}
