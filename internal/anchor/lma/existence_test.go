package lma

import (
	"net/netip"
	"testing"

	"kedge/internal/spec"
	"kedge/wire/mobility"
)

var (
	coa1 = netip.MustParseAddr("2001:db8:a::11")
	coa2 = netip.MustParseAddr("2001:db8:a::12")
	p1   = netip.MustParsePrefix("2001:db8:1000::/64")
	p2   = netip.MustParsePrefix("2001:db8:1000:1::/64")
	hoa  = netip.MustParseAddr("10.20.0.8")
	llA  = []byte{2, 0, 0, 0, 0, 0x0a}
	llB  = []byte{2, 0, 0, 0, 0, 0x0b}
	zero = []byte{0, 0, 0, 0, 0, 0}
)

// ask is a request as far as the existence test looks at it.
type ask struct {
	hnp    []netip.Prefix
	any    bool   // an ALL_ZERO prefix option beside them
	v4     string // "" = no option, "0" = ALL_ZERO, "x" = hoa
	ll     []byte
	att    uint8
	hi     uint8 // 0 = no option
	coa    netip.Addr
	dereg  bool
	draft  bool
	noWait bool
}

func (a ask) request() *Request {
	r := &Request{CareOf: a.coa, ATT: a.att, HasATT: true, HI: a.hi, HasHI: a.hi != 0, LinkLayer: a.ll, HasLinkLayer: a.ll != nil, Lifetime: 10}
	if a.dereg {
		r.Lifetime = 0
	}
	r.NonZero = copy(r.Prefixes[:], a.hnp)
	r.HNPOptions, r.AllZero = len(a.hnp), a.any
	if a.any {
		r.HNPOptions++
	}
	if a.v4 != "" {
		r.Dialect, r.V4Options, r.V4 = RFC5844, 1, netip.IPv4Unspecified()
		if a.v4 == "x" {
			r.V4, r.V4Bits = hoa, 32
		}
		if a.draft {
			r.Dialect = Draft02
		}
	}
	return r
}

// ses is a session of mobile node, at coa1 over Ethernet with link-layer identifier llA unless changed.
func ses(change ...func(*Session)) *Session {
	s := &Session{Ref: 7, Prefixes: []netip.Prefix{p1}, CareOf: coa1, ATT: 3, LinkLayer: llA}
	for _, c := range change {
		c(s)
	}
	return s
}

func foreign(s *Session)    { s.Foreign = true }
func noLL(s *Session)       { s.LinkLayer = nil }
func deprecated(s *Session) { s.Deprecated = true }
func two(s *Session)        { s.Prefixes = []netip.Prefix{p1, p2} }
func other(s *Session)      { s.Ref, s.LinkLayer, s.Prefixes = 8, llB, []netip.Prefix{p2} }
func wlan(s *Session)       { s.ATT = 4 }

// TestExistence has a row for every paragraph and bullet of RFC 5213 5.4.1.1 to 5.4.1.3 and RFC 5844 3.1.2.7.
func TestExistence(t *testing.T) {
	spec.Covers(t, "S001-3.3.2-18", "S001-3.3.2-19", "S001-3.3.2-20")
	h := []netip.Prefix{p1}
	for _, row := range []struct {
		name string
		ask  ask
		key  *Session // found by prefix or address
		node []*Session
		want Verdict
		ref  uint32
		stat mobility.Status
	}{
		// 5.4.1.1
		{"1.2 nobody has the prefix", ask{hnp: h, att: 3, hi: 4, coa: coa2}, nil, []*Session{ses(two)}, Create, 0, 0},
		{"1.2 nobody has it, handoff 2: the prefix decides, not the node", ask{hnp: h, att: 3, hi: 2, coa: coa2}, nil, []*Session{ses()}, Create, 0, 0},
		{"1.3 another node's", ask{hnp: h, ll: llA, att: 3, hi: 2, coa: coa1}, ses(foreign), nil, Reject, 0, 155},
		{"1.4 fewer prefixes than the session", ask{hnp: h, ll: llA, att: 3, hi: 5, coa: coa1}, ses(two), nil, Reject, 7, 159},
		{"1.4 more prefixes than the session", ask{hnp: []netip.Prefix{p1, p2}, ll: llA, att: 3, hi: 5, coa: coa1}, ses(), nil, Reject, 7, 159},
		{"1.4 equal count, other prefix", ask{hnp: []netip.Prefix{p2}, ll: llA, att: 3, hi: 5, coa: coa1}, ses(), nil, Reject, 7, 159},
		{"1.4 one prefix twice", ask{hnp: []netip.Prefix{p1, p1}, ll: llA, att: 3, hi: 5, coa: coa1}, ses(two), nil, Reject, 7, 159},
		{"1.5 order does not matter", ask{hnp: []netip.Prefix{p2, p1}, ll: llA, att: 3, hi: 5, coa: coa1}, ses(two), nil, Update, 7, 0},
		{"1.4 an ALL_ZERO option stands for the others", ask{hnp: []netip.Prefix{p2}, any: true, ll: llA, att: 3, hi: 4, coa: coa2}, ses(two), nil, Update, 7, 0},
		{"1.4 an ALL_ZERO option beside a prefix of another session", ask{hnp: []netip.Prefix{p1, p2}, any: true, ll: llA, att: 3, hi: 4, coa: coa2}, ses(), nil, Reject, 7, 159},
		{"1.4 an ALL_ZERO option, one prefix twice", ask{hnp: []netip.Prefix{p1, p1}, any: true, ll: llA, att: 3, hi: 4, coa: coa2}, ses(two), nil, Reject, 7, 159},
		{"1.5a same interface and technology", ask{hnp: h, ll: llA, att: 3, hi: 4, coa: coa2}, ses(), nil, Update, 7, 0},
		{"1.5a not another interface", ask{hnp: h, ll: llB, att: 3, hi: 4, coa: coa2}, ses(), nil, Create, 0, 0},
		{"1.5a not another technology", ask{hnp: h, ll: llA, att: 4, hi: 4, coa: coa2}, ses(), nil, Create, 0, 0},
		{"1.5b handoff 2, everything else differs", ask{hnp: h, ll: llB, att: 4, hi: 2, coa: coa2}, ses(), nil, Update, 7, 0},
		{"1.5c no identifier anywhere, handoff 3", ask{hnp: h, att: 3, hi: 3, coa: coa2}, ses(noLL), nil, Update, 7, 0},
		{"1.5c ALL_ZERO is no identifier", ask{hnp: h, ll: zero, att: 3, hi: 3, coa: coa2}, ses(noLL), nil, Update, 7, 0},
		{"1.5c but the session has one", ask{hnp: h, att: 3, hi: 3, coa: coa2}, ses(), nil, Create, 0, 0},
		{"1.5c but the request has one", ask{hnp: h, ll: llA, att: 3, hi: 3, coa: coa2}, ses(noLL), nil, Create, 0, 0},
		{"1.5c but another technology", ask{hnp: h, att: 4, hi: 3, coa: coa2}, ses(noLL), nil, Create, 0, 0},
		{"1.5c but handoff 4", ask{hnp: h, att: 3, hi: 4, coa: coa2}, ses(noLL), nil, Create, 0, 0},
		{"1.5d same gateway and technology", ask{hnp: h, ll: llB, att: 3, hi: 5, coa: coa1}, ses(), nil, Update, 7, 0},
		{"1.5d same gateway, other technology", ask{hnp: h, ll: llB, att: 4, hi: 5, coa: coa1}, ses(), nil, Create, 0, 0},
		{"1.6 deregistration of nothing", ask{hnp: h, ll: llB, att: 3, hi: 4, coa: coa2, dereg: true}, ses(), nil, Ignore, 0, 0},
		{"1.6 deregistration of a prefix nobody has", ask{hnp: h, att: 3, hi: 4, coa: coa1, dereg: true}, nil, nil, Ignore, 0, 0},
		{"1.5 deregistration", ask{hnp: h, ll: llA, att: 3, hi: 4, coa: coa1, dereg: true}, ses(), nil, Update, 7, 0},
		// RFC 5844 3.1.2.7: the same with an IPv4 address
		{"v4 prefix first", ask{hnp: h, v4: "x", att: 3, hi: 5, coa: coa1}, ses(), nil, Update, 7, 0},
		{"v4.2 nobody has the address", ask{v4: "x", ll: llA, att: 3, hi: 4, coa: coa2}, nil, []*Session{ses()}, Create, 0, 0},
		{"v4.3 another node's", ask{v4: "x", ll: llA, att: 3, hi: 4, coa: coa1}, ses(foreign), nil, Reject, 0, 171},
		{"v4.3 another node's, draft", ask{v4: "x", ll: llA, att: 3, hi: 4, coa: coa1, draft: true}, ses(foreign), nil, Reject, 0, 129},
		{"v4.4 prefixes of the session do not matter", ask{v4: "x", ll: llA, att: 3, hi: 4, coa: coa2}, ses(two), nil, Update, 7, 0},
		{"v4.5a same interface", ask{v4: "x", ll: llA, att: 3, hi: 1, coa: coa2}, ses(), nil, Update, 7, 0},
		{"v4.5b handoff 2", ask{v4: "x", ll: llB, att: 4, hi: 2, coa: coa2}, ses(), nil, Update, 7, 0},
		{"v4.5c handoff 3", ask{v4: "x", att: 3, hi: 3, coa: coa2}, ses(noLL), nil, Update, 7, 0},
		{"v4.5d same gateway", ask{v4: "x", att: 3, hi: 5, coa: coa1}, ses(), nil, Update, 7, 0},
		{"v4.5d same gateway, draft without handoff indicator", ask{v4: "x", att: 3, coa: coa1, draft: true}, ses(), nil, Update, 7, 0},
		{"v4.6 other interface", ask{v4: "x", ll: llB, att: 3, hi: 3, coa: coa2}, ses(), nil, Create, 0, 0},
		// 5.4.1.2, with ALL_ZERO prefix and address
		{"2.2 same interface", ask{v4: "0", ll: llA, att: 3, hi: 4, coa: coa2}, nil, []*Session{ses(other), ses()}, Update, 7, 0},
		{"2.2 same interface, deregistered", ask{v4: "0", ll: llA, att: 3, hi: 1, coa: coa2}, nil, []*Session{ses(deprecated)}, Update, 7, 0},
		{"2.2 other technology", ask{ll: llA, att: 4, hi: 1, coa: coa2}, nil, []*Session{ses()}, Create, 0, 0},
		{"2.3 handoff 2, one session", ask{ll: llB, att: 4, hi: 2, coa: coa2}, nil, []*Session{ses()}, Update, 7, 0},
		{"2.3 handoff 2, two sessions", ask{ll: llB, att: 4, hi: 2, coa: coa2}, nil, []*Session{ses(), ses(wlan)}, Create, 0, 0},
		{"2.3 handoff 2, no session", ask{ll: llB, att: 4, hi: 2, coa: coa2}, nil, nil, Create, 0, 0},
		{"2.4 handoff 4, one session", ask{ll: llB, att: 3, hi: 4, coa: coa2}, nil, []*Session{ses()}, Await, 7, 0},
		{"2.4 handoff 4, one deregistered session", ask{ll: llB, att: 3, hi: 4, coa: coa2}, nil, []*Session{ses(deprecated)}, Update, 7, 0},
		{"2.4 handoff 4, configured not to wait", ask{ll: llB, att: 3, hi: 4, coa: coa2, noWait: true}, nil, []*Session{ses()}, Create, 0, 0},
		{"2.4 handoff 4, two sessions", ask{ll: []byte{9}, att: 3, hi: 4, coa: coa2}, nil, []*Session{ses(), ses(other)}, Create, 0, 0},
		{"2.4 handoff 4, deregistration of another interface", ask{ll: llB, att: 3, hi: 4, coa: coa1, dereg: true}, nil, []*Session{ses()}, Ignore, 0, 0},
		{"2.4 handoff 4, deregistration, deregistered", ask{ll: llB, att: 3, hi: 4, coa: coa1, dereg: true}, nil, []*Session{ses(deprecated)}, Update, 7, 0},
		{"2.5 handoff 1", ask{ll: llB, att: 3, hi: 1, coa: coa2}, nil, []*Session{ses()}, Create, 0, 0},
		{"2.5 handoff 3", ask{ll: llB, att: 3, hi: 3, coa: coa2}, nil, []*Session{ses()}, Create, 0, 0},
		{"2.5 handoff 5", ask{ll: llB, att: 3, hi: 5, coa: coa2}, nil, []*Session{ses()}, Create, 0, 0},
		{"2.5 deregistration of nothing", ask{ll: llB, att: 3, hi: 1, coa: coa2, dereg: true}, nil, []*Session{ses()}, Ignore, 0, 0},
		// 5.4.1.3
		{"3.2 handoff 2", ask{att: 4, hi: 2, coa: coa2}, nil, []*Session{ses()}, Update, 7, 0},
		{"3.2 handoff 3", ask{att: 4, hi: 3, coa: coa2}, nil, []*Session{ses()}, Update, 7, 0},
		{"3.2 ALL_ZERO identifier, handoff 3", ask{ll: zero, att: 3, hi: 3, coa: coa2}, nil, []*Session{ses(noLL)}, Update, 7, 0},
		{"3.2 handoff 3, two sessions", ask{att: 3, hi: 3, coa: coa2}, nil, []*Session{ses(), ses(other)}, Create, 0, 0},
		{"3.3 handoff 4", ask{att: 3, hi: 4, coa: coa2}, nil, []*Session{ses()}, Await, 7, 0},
		{"3.3 draft without handoff indicator", ask{v4: "0", att: 3, coa: coa2, draft: true}, nil, []*Session{ses()}, Await, 7, 0},
		{"3.3 handoff 4, deregistered", ask{att: 3, hi: 4, coa: coa2}, nil, []*Session{ses(deprecated)}, Update, 7, 0},
		{"3.3 handoff 4, configured not to wait", ask{att: 3, hi: 4, coa: coa2, noWait: true}, nil, []*Session{ses()}, Create, 0, 0},
		{"3.3 handoff 4, two sessions", ask{att: 3, hi: 4, coa: coa2}, nil, []*Session{ses(), ses(other)}, Create, 0, 0},
		{"3.3 handoff 4, no session", ask{att: 3, hi: 4, coa: coa2}, nil, nil, Create, 0, 0},
		{"3.3 handoff 4, deregistration", ask{att: 3, hi: 4, coa: coa1, dereg: true}, nil, []*Session{ses(noLL)}, Update, 7, 0},
		{"3.3 handoff 4, deregistration, the session has an identifier", ask{att: 3, hi: 4, coa: coa1, dereg: true}, nil, []*Session{ses()}, Ignore, 0, 0},
		{"3.3 handoff 4, deregistration of another technology", ask{att: 4, hi: 4, coa: coa1, dereg: true}, nil, []*Session{ses(noLL)}, Ignore, 0, 0},
		{"3.4 handoff 1", ask{att: 3, hi: 1, coa: coa2}, nil, []*Session{ses()}, Create, 0, 0},
		{"3.4 handoff 5", ask{att: 3, hi: 5, coa: coa1}, nil, []*Session{ses()}, Create, 0, 0},
		{"3.4 reserved handoff", ask{att: 3, hi: 200, coa: coa1}, nil, []*Session{ses()}, Create, 0, 0},
		{"3.4 deregistration of nothing", ask{att: 3, hi: 1, coa: coa1, dereg: true}, nil, nil, Ignore, 0, 0},
	} {
		var node []Session
		for _, s := range row.node {
			node = append(node, *s)
		}
		d := Exists(row.ask.request(), row.key, node, !row.ask.noWait)
		if d.Verdict != row.want || d.Ref != row.ref {
			t.Errorf("%s: verdict %d ref %d (%s), want %d ref %d", row.name, d.Verdict, d.Ref, d.Rule, row.want, row.ref)
		}
		if row.stat != 0 && (d.Refusal == nil || d.Refusal.Status != row.stat) {
			t.Errorf("%s: %v, want status %d", row.name, d.Refusal, row.stat)
		}
		if d.Rule == "" {
			t.Errorf("%s: no rule is named", row.name)
		}
	}
}

// TestExistenceEverywhere walks all combinations and holds what must be true in each: a verdict always, no session of
// another node touched, no session made by a deregistration, no update of a session that was not offered.
func TestExistenceEverywhere(t *testing.T) {
	n := 0
	keys := []*Session{nil, ses(), ses(foreign), ses(two), ses(noLL), ses(deprecated), ses(wlan)}
	nodes := [][]Session{nil, {*ses()}, {*ses(noLL)}, {*ses(deprecated)}, {*ses(), *ses(other)}}
	for _, hnp := range [][]netip.Prefix{nil, {p1}, {p1, p2}} {
		for _, v4 := range []string{"", "0", "x"} {
			for _, ll := range [][]byte{nil, zero, llA, llB} {
				for hi := range uint8(7) {
					for _, att := range []uint8{3, 4} {
						for _, coa := range []netip.Addr{coa1, coa2} {
							for bits := range 8 {
								a := ask{hnp: hnp, v4: v4, ll: ll, hi: hi, att: att, coa: coa, dereg: bits&1 != 0, draft: bits&2 != 0, noWait: bits&4 != 0}
								for _, key := range keys {
									for _, node := range nodes {
										n++
										check(t, a, key, node)
									}
								}
							}
						}
					}
				}
			}
		}
	}
	t.Logf("%d combinations", n)
}

func check(t *testing.T, a ask, key *Session, node []Session) {
	t.Helper()
	r := a.request()
	d := Exists(r, key, node, !a.noWait)
	_, keyed := r.V4Key()
	keyed = keyed || r.NonZero > 0
	ok := false
	switch d.Verdict {
	case Create:
		ok = !a.dereg && d.Refusal == nil
	case Ignore:
		ok = a.dereg && d.Refusal.Silent
	case Reject:
		ok = keyed && key != nil && (key.Foreign || r.NonZero > 0) && d.Refusal.Status >= 128
	case Await:
		ok = !a.dereg && !a.noWait && !keyed && len(node) == 1 && !node[0].Deprecated && r.Asked() == mobility.HandoffUnknown
	case Update:
		if keyed {
			ok = key != nil && !key.Foreign && d.Ref == key.Ref
		} else {
			for _, s := range node {
				ok = ok || s.Ref == d.Ref
			}
		}
	}
	if !ok {
		t.Fatalf("%+v with %+v and %+v: %+v", a, key, node, d)
	}
}
