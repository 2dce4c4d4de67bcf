package homeagent

import (
	"math"
	"time"

	"kedge/wire/mobility"
)

// Answer is what a Binding Acknowledgement says besides what it copies from the request.
type Answer struct {
	Status   mobility.Status
	Lifetime uint16 // units of 4 s
	Acks     []mobility.IPv4AddressAck
	// UDP tells the node to tunnel in UDP, NATRefresh how often it must send something when there is a NAT.
	UDP        bool
	NATRefresh time.Duration
	// Advice is when to register again at the latest, units of 4 s; 0 = not said.
	Advice uint16
}

// Accept answers an accepted request: RFC 6275 10.3.1, 10.3.2, RFC 5555 4.5. The K flag stays clear: security associations
// are not made by a protocol that could move with the node.
func (r *Request) Accept(a Answer) *mobility.BindingAck {
	ack := &mobility.BindingAck{Status: a.Status, Sequence: r.Sequence, Lifetime: a.Lifetime}
	if r.Router() { // RFC 3963 4.2: only then
		ack.Flags |= mobility.BARouter
	}
	if a.Advice > 0 && a.Advice < a.Lifetime {
		ack.Options = ack.Options.Add(mobility.BindingRefreshAdvice{Interval: a.Advice})
	}
	ack.Options = r.common(ack.Options, r.MessageID, a.UDP, a.NATRefresh)
	for _, v := range a.Acks { // last: a peer that misreads the draft's lengths loses nothing behind them
		ack.Options = ack.Options.Add(v)
	}
	return ack
}

// Refuse answers a request with an error.
func (r *Request) Refuse(f *Refusal, natRefresh time.Duration) *mobility.BindingAck {
	ack := &mobility.BindingAck{Status: f.Status, Sequence: r.Sequence}
	if f.Status == mobility.SequenceOutOfWindow {
		ack.Sequence = f.Sequence // RFC 6275 9.5.1
	}
	switch f.Status { // the statuses of who supports mobile routers (RFC 3963 4.2)
	case mobility.InvalidPrefix, mobility.NotAuthorizedForPrefix, mobility.ForwardingSetupFailed:
		ack.Flags |= mobility.BARouter
	}
	id := r.MessageID
	if f.MessageID != 0 {
		id = f.MessageID
	}
	ack.Options = r.common(nil, id, r.NAT, natRefresh)
	return ack
}

// noKeepalive is the refresh time that says that no NAT is there, RFC 5555 3.2.2.
const noKeepalive = math.MaxUint32

// common adds the options that every answer has whose request gave cause for them.
func (r *Request) common(o mobility.Options, id uint64, udp bool, refresh time.Duration) mobility.Options {
	if r.HasMessageID { // RFC 4285 6
		o = o.Add(mobility.MessageID{Timestamp: id})
	}
	if r.Framing == UDP { // RFC 5555 4.2
		nat := mobility.NATDetection{F: udp, Refresh: noKeepalive}
		if r.NAT {
			nat.Refresh = uint32(refresh / time.Second)
		}
		o = o.Add(nat)
	}
	return o
}
