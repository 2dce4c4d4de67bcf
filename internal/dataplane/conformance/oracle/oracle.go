// Package oracle puts the pure engine of package mem where a back end is tested: among what plain routing would do. What it does with
// a packet, every back end must do. It is for tests only.
package oracle

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/internal/dataplane/conformance"
	"kedge/internal/dataplane/mem"
	"kedge/wire/ip"
)

type router struct {
	*mem.Engine
	role dataplane.Role
	now  time.Duration
	out  mem.Out
	got  []conformance.Packet
}

// New makes a router of an engine. It is a conformance.Factory.
func New(t *testing.T, o conformance.Options) conformance.Router {
	t.Helper()
	r := &router{role: o.Role, now: time.Hour}
	cfg := mem.Config{
		Role: o.Role, Local: []netip.Addr{conformance.LMAA, conformance.LMAA4}, LocalRouting: o.LocalRouting,
		EncapsulationLimit: o.EncapsulationLimit, Home: o.Home, Anchors: o.Anchors, ProbeID: o.ProbeID, Unreachable: o.Unreachable, Now: func() time.Duration { return r.now },
	}
	switch o.Role {
	case dataplane.Node:
		cfg.Local = nil
	case dataplane.Gateway:
		cfg.Local = []netip.Addr{conformance.CoA1}
		if o.IPv4 {
			cfg.Local = append(cfg.Local, conformance.CoA4)
		}
		for i := 1; i <= 2; i++ {
			cfg.Access = append(cfg.Access, dataplane.Link{If: i, MAC: conformance.RouterMAC, LinkLocal: conformance.LinkLocal})
		}
	}
	if o.Secured {
		cfg.Security = conformance.Security(t, o.Role == dataplane.Anchor)
	}
	e, err := mem.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.Engine = e
	t.Cleanup(func() { e.Close() })
	return r
}

func (r *router) If(link int) int         { return link }
func (r *router) Advance(d time.Duration) { r.now += d }

func (r *router) Send(p conformance.Packet) {
	r.out.Reset()
	b := bytes.Clone(p.B)
	if p.Side == conformance.Tunnel {
		if p.VNet.NeedsChecksum {
			h, _ := ip.Parse(b)
			r.Decapsulate(r.now, mem.Outer{Local: netip.AddrPortFrom(h.Dst, 0), Remote: netip.AddrPortFrom(h.Src, 0), TOS: h.TOS, Proto: h.Proto, Offload: true}, b[h.HdrLen:], &r.out)
		} else {
			r.Tunnel(r.now, b, &r.out)
		}
	} else {
		in := mem.Native{If: p.Link, MAC: p.MAC, B: b, VNet: p.VNet}
		switch {
		case p.MAC == conformance.RouterMAC:
		case p.Other == core.MAC{}:
			r.Native(r.now, in, &r.out)
		case p.Other[0]&1 != 0:
			r.Sighted(r.now, in, &r.out)
		}
	}
	r.take()
}

// take collects what left. Home prefixes are routed to the data plane, so what leaves for one comes back.
func (r *router) take() {
	all := append([]mem.Packet{}, r.out.Packets...)
	for i := range all {
		all[i].B = bytes.Clone(all[i].B)
	}
	for _, p := range all {
		side := conformance.Tunnel
		if p.To == dataplane.ToSignal {
			side = conformance.Signal
		}
		if p.To == dataplane.ToNative || p.To == dataplane.ToSelf && r.role == dataplane.Anchor {
			side = conformance.Native
		}
		if side != conformance.Signal && r.role == dataplane.Anchor {
			if h, err := ip.Parse(p.B); err == nil && (conformance.Pool6.Contains(h.Dst) || conformance.Pool4.Contains(h.Dst)) {
				r.out.Reset()
				r.Native(r.now, mem.Native{B: p.B}, &r.out)
				r.take()
				continue
			}
		}
		r.got = append(r.got, conformance.Packet{Side: side, Link: p.If, MAC: p.MAC, Outer: p.Outer, B: p.B})
	}
}

func (r *router) Drain() []conformance.Packet {
	got := r.got
	r.got = nil
	return got
}

func (r *router) Signal(p core.Packet) error {
	r.out.Reset()
	err := r.Encapsulate(r.now, p.Outer, p.B, &r.out)
	r.take()
	return err
}
