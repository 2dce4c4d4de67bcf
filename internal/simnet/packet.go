package simnet

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"kedge/internal/access"
	"kedge/wire/mobility"
)

// Kind of a packet.
type Kind uint8

const (
	MHKind Kind = iota // Mobility Header over IPv6; B is the header
	Tunnel             // outer IPv6 packet, complete
	Frame              // Ethernet frame of an access link
)

func (k Kind) String() string { return [...]string{"mh", "tunnel", "frame"}[k] }

// Packet is one packet on a link, seen by Routers and the Tap. B may be changed; it is the packet's own.
type Packet struct {
	N        int           // serial number in this world
	At       time.Duration // when it was sent, since the beginning
	Kind     Kind
	Link     string
	From, To string     // names of nodes and hosts; To of a frame is "" (who gets it depends on its MAC)
	Src, Dst netip.Addr // of the IPv6 header; of a frame unset
	B        []byte
}

// Message reads a Mobility Header packet; nil if it is none or cannot be read.
func (p *Packet) Message() mobility.Message {
	if p.Kind != MHKind {
		return nil
	}
	m, err := mobility.Parse(p.B, p.Src, p.Dst)
	if err != nil {
		return nil
	}
	return m
}

// Frame reads an access frame; nil if it is none or cannot be read.
func (p *Packet) Frame() *access.Frame {
	if p.Kind != Frame {
		return nil
	}
	f, err := access.Decode(p.B)
	if err != nil {
		return nil
	}
	return f
}

// What is a short name: PBU, PBA, BRI, BRA, heartbeat, binding error, an access frame's kind, or the packet's kind.
func (p *Packet) What() string {
	switch m := p.Message().(type) {
	case *mobility.BindingUpdate:
		return fmt.Sprintf("PBU seq %d lifetime %d", m.Sequence, m.Lifetime)
	case *mobility.BindingAck:
		return fmt.Sprintf("PBA seq %d lifetime %d status %d", m.Sequence, m.Lifetime, m.Status)
	case *mobility.Heartbeat:
		return fmt.Sprintf("heartbeat seq %d response %v", m.Sequence, m.Response)
	case *mobility.Revocation:
		if m.Ack {
			return fmt.Sprintf("BRA seq %d status %d", m.Sequence, m.Code)
		}
		return fmt.Sprintf("BRI seq %d trigger %d", m.Sequence, m.Code)
	case *mobility.BindingError:
		return fmt.Sprintf("binding error %d %s", m.Status, m.Home)
	case nil:
	default:
		return fmt.Sprintf("%T", m)
	}
	if f := p.Frame(); f != nil {
		return fmt.Sprintf("%s %s > %s", f.Kind(), f.Src, f.Dst)
	}
	return fmt.Sprintf("%s %d octets", p.Kind, len(p.B))
}

// Verdict is what becomes of a packet. The zero Verdict lets it pass.
type Verdict struct {
	Drop  bool
	Delay time.Duration   // on top of the link's
	Again []time.Duration // copies, each with its own delay; also of a packet that is dropped
}

// Router decides about packets. Those of a link are asked in order; a Drop ends it, delays add up.
type Router func(p *Packet) Verdict

// Match selects packets.
type Match func(p *Packet) bool

// Pass lets everything pass.
func Pass(*Packet) Verdict { return Verdict{} }

// Lose drops everything.
func Lose(*Packet) Verdict { return Verdict{Drop: true} }

// Twice sends a copy, after d.
func Twice(d time.Duration) Router {
	return func(*Packet) Verdict { return Verdict{Again: []time.Duration{d}} }
}

// Late delays by d.
func Late(d time.Duration) Router {
	return func(*Packet) Verdict { return Verdict{Delay: d} }
}

// Flip inverts one bit of the octet at off (from the end if negative).
func Flip(off int) Router {
	return func(p *Packet) Verdict {
		if off < 0 {
			off += len(p.B)
		}
		if off >= 0 && off < len(p.B) {
			p.B[off] ^= 1
		}
		return Verdict{}
	}
}

// If applies r to the packets that m selects.
func If(m Match, r Router) Router {
	return func(p *Packet) Verdict {
		if m(p) {
			return r(p)
		}
		return Verdict{}
	}
}

// Nth applies r to the nth packet that m selects, from 1.
func Nth(n int, m Match, r Router) Router {
	seen := 0
	return func(p *Packet) Verdict {
		if !m(p) {
			return Verdict{}
		}
		if seen++; seen != n {
			return Verdict{}
		}
		return r(p)
	}
}

// First applies r to the first n packets that m selects.
func First(n int, m Match, r Router) Router {
	seen := 0
	return func(p *Packet) Verdict {
		if !m(p) {
			return Verdict{}
		}
		if seen++; seen > n {
			return Verdict{}
		}
		return r(p)
	}
}

// Any selects everything.
func Any(*Packet) bool { return true }

// All selects what every match selects.
func All(ms ...Match) Match {
	return func(p *Packet) bool {
		return !slices.ContainsFunc(ms, func(m Match) bool { return !m(p) })
	}
}

// From and To select by node.
func From(name string) Match { return func(p *Packet) bool { return p.From == name } }

// To selects packets to a node.
func To(name string) Match { return func(p *Packet) bool { return p.To == name } }

// PBU selects Proxy Binding Updates.
func PBU(p *Packet) bool { _, ok := p.Message().(*mobility.BindingUpdate); return ok }

// PBA selects Proxy Binding Acknowledgements.
func PBA(p *Packet) bool { _, ok := p.Message().(*mobility.BindingAck); return ok }

// BRI selects Binding Revocation Indications.
func BRI(p *Packet) bool { m, ok := p.Message().(*mobility.Revocation); return ok && !m.Ack }

// BRA selects Binding Revocation Acknowledgements.
func BRA(p *Packet) bool { m, ok := p.Message().(*mobility.Revocation); return ok && m.Ack }

// Signalling selects all Mobility Header messages.
func Signalling(p *Packet) bool { return p.Kind == MHKind }
