package lma

import (
	"net/netip"

	"kedge/wire/mobility"
)

// Answer is what a Proxy Binding Acknowledgement says besides what it copies from the request.
type Answer struct {
	Status   mobility.Status
	Lifetime uint16 // units of 4 s
	// Prefixes are the session's home network prefixes, V4 its IPv4 home address with the length of the home network.
	Prefixes []netip.Prefix
	V4       netip.Prefix
	Router   netip.Addr
	// Address is the Status of the IPv4 option; Requested, the address in it when there is none to give.
	Address mobility.AddressStatus
	// LinkLocal is the session's link-local address, for a request that asks for one.
	LinkLocal netip.Addr
	Timestamp uint64 // 0 = the request's
	Sequence  uint16
	// Drafts: the draft's dialect is served; a request without any home address gets option 30 as well (draft 3.3.2).
	Drafts bool
}

// Accept is the answer to an accepted request; the sequence number is the request's.
func (r *Request) Accept(a Answer) *mobility.BindingAck {
	a.Status, a.Sequence = mobility.Accepted, r.Sequence
	return r.Acknowledge(a)
}

// Refuse is the answer to a refused one. session is what the mobile node has, if anything was found; the draft tells its
// IPv4 address even then.
func (r *Request) Refuse(f *Refusal, session netip.Prefix, drafts bool) *mobility.BindingAck {
	a := Answer{Status: f.Status, Sequence: r.Sequence, Timestamp: f.Time, Address: f.Address, V4: session, Drafts: drafts}
	if f.Status == mobility.SequenceOutOfWindow {
		a.Sequence = f.Seq // RFC 6275 9.5.1
	}
	if a.Address == 0 {
		a.Address = mobility.AddressReasonUnspecified
	}
	return r.Acknowledge(a)
}

// Acknowledge builds the answer: RFC 5213 5.3.6 with RFC 5844 3.1.2.6, or the draft's 3.3.2.
func (r *Request) Acknowledge(a Answer) *mobility.BindingAck {
	o := make(mobility.Options, 0, 160)
	subtype := r.Subtype
	if !r.HasNode {
		subtype = mobility.SubtypeNAI
	}
	o = o.Add(mobility.MobileNodeID{Subtype: subtype, ID: r.Node})
	switch {
	case a.Status >= 128, r.HNPOptions > 0 && len(a.Prefixes) == 0: // or a deregistration of what was not there
		o = r.refusedPrefixes(o)
	case r.HNPOptions > 0:
		for _, p := range a.Prefixes {
			o = o.Add(mobility.HomeNetworkPrefix{Prefix: p})
		}
	}
	// The figures of the draft have no handoff indicator: it is answered when it was there.
	if r.HasHI || r.Dialect != Draft02 {
		o = o.Add(mobility.HandoffIndicator{Value: r.HI})
	}
	o = o.Add(mobility.AccessTechnology{Value: r.ATT})
	if r.HasTimestamp {
		t := a.Timestamp
		if t == 0 {
			t = r.Timestamp
		}
		o = o.Add(mobility.Timestamp{Value: t})
	}
	if r.HasLinkLayer {
		o = o.Add(mobility.LinkLayerID{ID: r.LinkLayer})
	}
	if r.HasLinkLocal {
		ll := r.LinkLocal
		if a.Status < 128 && ll.IsUnspecified() {
			ll = a.LinkLocal
		}
		o = o.Add(mobility.LinkLocalAddress{Addr: ll})
	}
	switch r.Dialect {
	case RFC5844:
		o = r.reply5844(o, a)
	case Draft02:
		o = r.replyDraft(o, a)
	default:
		if r.HNPOptions == 0 && a.Status == mobility.MissingHNPOption && a.Drafts {
			o = o.Add(mobility.IPv4AddressAck{Status: mobility.AddressReasonUnspecified, Addr: netip.IPv4Unspecified()})
		}
	}
	return &mobility.BindingAck{Status: a.Status, Flags: mobility.BAProxy, Sequence: a.Sequence, Lifetime: a.Lifetime, Options: o}
}

// refusedPrefixes copies all Home Network Prefix options. Without one there must be an ALL_ZERO one (RFC 5213 5.3.6),
// unless the request was about IPv4 only (RFC 5844 3.1.2.6).
func (r *Request) refusedPrefixes(o mobility.Options) mobility.Options {
	if r.HNPOptions == 0 && !r.HasV4() {
		return o.Add(mobility.HomeNetworkPrefix{Prefix: netip.PrefixFrom(netip.IPv6Unspecified(), 0)})
	}
	n := 0
	for p := range r.options.HomeNetworkPrefixes() {
		if n++; n > maxCopied {
			break
		}
		o = o.Add(mobility.HomeNetworkPrefix{Prefix: p})
	}
	return o
}

// maxCopied limits the prefixes that a refusal copies, six times what a session can have: all options of a full message
// and those that the answer adds would not fit one message.
const maxCopied = 48

// reply5844 adds options 37, 38 and 39: address and length of the request when it is refused. Gateways serve DHCP
// themselves (flag S).
func (r *Request) reply5844(o mobility.Options, a Answer) mobility.Options {
	if a.Status >= 128 {
		return o.Add(mobility.IPv4HomeAddressReply{Status: a.Address, PrefixLen: r.V4Bits, Addr: r.V4})
	}
	if !a.V4.IsValid() { // a deregistration of what was not there
		return o.Add(mobility.IPv4HomeAddressReply{Status: mobility.AddressReasonUnspecified, PrefixLen: r.V4Bits, Addr: r.V4})
	}
	o = o.Add(mobility.IPv4HomeAddressReply{PrefixLen: uint8(a.V4.Bits()), Addr: a.V4.Addr()})
	if a.Router.IsValid() {
		o = o.Add(mobility.IPv4DefaultRouter{Addr: a.Router})
	}
	return o.Add(mobility.IPv4DHCPSupportMode{Server: true})
}

// replyDraft adds option 30: the address of the mobile node whatever the status, with a length only on success (RFC 5555
// 3.2.1). When none is given and the anchor lacks resources it is 0.0.0.0, else the one that was asked for.
func (r *Request) replyDraft(o mobility.Options, a Answer) mobility.Options {
	ack := mobility.IPv4AddressAck{Status: a.Address, Addr: r.V4}
	switch {
	case a.V4.IsValid() && a.Address < 128:
		ack.Addr, ack.PrefixLen = a.V4.Addr(), uint8(a.V4.Bits())
	case a.V4.IsValid():
		ack.Addr = a.V4.Addr()
	case a.Status == mobility.InsufficientResources:
		ack.Addr = netip.IPv4Unspecified()
	}
	return o.Add(ack)
}
