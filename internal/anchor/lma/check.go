package lma

import (
	"fmt"
	"time"

	"kedge/wire"
	"kedge/wire/mobility"
)

// Refusal is why a request is not accepted, and what the answer says.
type Refusal struct {
	Status  mobility.Status
	Address mobility.AddressStatus // of the IPv4 option in the answer; 0 = as the status maps
	Reason  wire.Reason
	Detail  string
	Silent  bool   // the RFC wants no answer
	Time    uint64 // Timestamp option of the answer instead of the request's, 0 = the request's
	Seq     uint16 // with status 135: the last accepted sequence number
}

// Error reads "refused 156: timestamp-mismatch (...)".
func (f *Refusal) Error() string {
	s := fmt.Sprintf("refused %d: %s", f.Status, f.Reason)
	if f.Silent {
		s = "ignored: " + string(f.Reason)
	}
	if f.Detail != "" {
		s += " (" + f.Detail + ")"
	}
	return s
}

func refuse(s mobility.Status, r wire.Reason, format string, args ...any) *Refusal {
	return &Refusal{Status: s, Reason: r, Detail: fmt.Sprintf(format, args...)}
}

// Identify is step 4 of RFC 5213 5.3.1: the request names its mobile node.
func Identify(r *Request) *Refusal {
	if !r.HasNode {
		return refuse(mobility.MissingMNIdentifierOption, wire.MissingMNID, "no Mobile Node Identifier option, or an empty one")
	}
	return nil
}

// Flags wants what RFC 5213 6.9.1.5 makes every gateway send, and refuses forced UDP encapsulation: it belongs to
// transport over IPv4 and AcceptForcedIPv4UDPEncapsulationRequest is 0 (RFC 5844 4.5.1; the draft's code is RFC 5555's).
func Flags(r *Request) *Refusal {
	if r.Flags&mobility.BUAck == 0 {
		return refuse(mobility.ReasonUnspecified, wire.MissingACK, "the A flag must be set")
	}
	if r.Flags&mobility.BUForceUDP != 0 {
		s := mobility.AdministrativelyProhibited
		if r.Dialect == Draft02 {
			s = mobility.IDMismatch // 144, "cannot force UDP encapsulation" in RFC 5555
		}
		return refuse(s, wire.UDPNotForced, "F flag over IPv6 transport")
	}
	return nil
}

// Last is what orders the next request of a mobile node.
type Last struct {
	Timestamp uint64 // highest accepted of the mobile node; 0 = none
	Known     bool   // Sequence is the session's
	Sequence  uint16 // last accepted
}

// Clock is the anchor's view of time for the Timestamp option.
type Clock struct {
	Wall   time.Time
	Window time.Duration // TimestampValidityWindow
	// Free: MobileNodeGeneratedTimestampInUse; timestamps only have to grow.
	Free bool
}

// offset is how far a timestamp is ahead of the clock, in its units. The difference wraps where a field of 64 bits does.
func (c Clock) offset(timestamp uint64) int64 {
	return int64(timestamp - mobility.TimestampOf(c.Wall).Value)
}

// window is Window in units of the Timestamp option; a begun unit counts.
func (c Clock) window() int64 {
	return (int64(c.Window)<<16 + int64(time.Second) - 1) / int64(time.Second)
}

// Passed says whether a timestamp that was accepted can still be one of this clock. One that is ahead of it by more than
// the window is not: the clock was set back. Nothing could follow it until that time comes again.
func (c Clock) Passed(timestamp uint64) bool { return c.Free || c.offset(timestamp) <= c.window() }

// InOrder is RFC 5213 5.5: timestamps when the option is there, else sequence numbers as in RFC 6275 9.5.1. A timestamp
// that equals the last one is refused as lower: it is not greater, and 157 lets the gateway try again at once.
func InOrder(r *Request, last Last, c Clock) *Refusal {
	if !r.HasTimestamp {
		if last.Known && !mobility.Newer(r.Sequence, last.Sequence) {
			f := refuse(mobility.SequenceOutOfWindow, wire.SequenceOld, "%d is not after %d", r.Sequence, last.Sequence)
			f.Seq = last.Sequence
			return f
		}
		return nil
	}
	now := mobility.TimestampOf(c.Wall).Value
	if last.Timestamp != 0 && r.Timestamp <= last.Timestamp {
		f := refuse(mobility.TimestampLowerThanPrevious, wire.TimestampOld, "%s before the last accepted one", span(last.Timestamp-r.Timestamp))
		f.Time = now
		return f
	}
	if c.Free {
		return nil
	}
	if ahead := c.offset(r.Timestamp); ahead > c.window() || ahead < -c.window() {
		by := "ahead of"
		if ahead < 0 {
			by, ahead = "behind", -ahead
		}
		f := refuse(mobility.TimestampMismatch, wire.TimestampMismatch, "%s %s the anchor's clock, window %s", span(uint64(ahead)), by, c.Window)
		f.Time = now
		return f
	}
	return nil
}

// span is the duration of a difference of timestamps.
func span(units uint64) time.Duration {
	if units >= 1<<46 { // would not fit a Duration; decades say enough
		return 1<<63 - 1
	}
	return (time.Duration(units>>16)*time.Second + time.Duration(units&0xffff)*time.Second>>16).Round(time.Millisecond)
}

// Complete is steps 10 to 12 of RFC 5213 5.3.1 with RFC 5844 3.1.2.1: something to register, a handoff indicator, an
// access technology type. The draft's messages have no handoff indicator.
func Complete(r *Request) *Refusal {
	if r.HNPOptions == 0 && !r.HasV4() {
		return refuse(mobility.MissingHNPOption, wire.MissingPrefix, "neither a home network prefix nor an IPv4 home address option")
	}
	if !r.HasHI && r.Dialect != Draft02 {
		return refuse(mobility.MissingHandoffIndicator, wire.MissingHandoff, "no Handoff Indicator option")
	}
	if !r.HasATT {
		return refuse(mobility.MissingAccessTechType, wire.MissingATT, "no Access Technology Type option")
	}
	return nil
}

// Families says what the subscriber and the home network have.
type Families struct{ V4, V6 bool }

// Entitled is the rest of RFC 5844 3.1.2.1. The draft accepts a request whose IPv4 part is refused when it has another
// (notes A10); that is decided with the addresses, so it passes here.
func Entitled(r *Request, f Families) *Refusal {
	if r.HNPOptions > 0 && !f.V6 {
		return refuse(mobility.NotAuthorizedForIPv6Mobility, wire.IPv6Disabled, "no IPv6 service")
	}
	if r.V4Options > 1 {
		return refuse(mobility.MultipleIPv4HoANotSupported, wire.MultipleIPv4, "%d IPv4 home address options", r.V4Options)
	}
	if r.HasV4() && !f.V4 && !r.Partial() {
		return RefuseV4(r, V4Service, "no IPv4 service")
	}
	return nil
}

// Partial says whether the IPv4 part may be refused alone: in the draft, when an IPv6 part remains.
func (r *Request) Partial() bool { return r.Dialect == Draft02 && r.HNPOptions > 0 }

// V4Problem is why an IPv4 home address is not given.
type V4Problem uint8

const (
	V4Service    V4Problem = iota // the subscriber or the home network has no IPv4
	V4Prohibited                  // the subscriber may not have this address
	V4Foreign                     // the address is not of this anchor or another mobile node's
	V4Invalid                     // no unicast host address
	V4Exhausted                   // nothing left
)

// RefuseV4 maps a problem to the dialect's codes: 170, 171 and 130 with option 37 in RFC 5844 3.1.2; 129 and 130 with the
// finer codes of RFC 5555 3.2.1 in option 30 in the draft (notes (a) error map, B5).
func RefuseV4(r *Request, p V4Problem, format string, args ...any) *Refusal {
	f := refuse(mobility.NotAuthorizedForIPv4HoA, wire.IPv4NotAuthorized, format, args...)
	f.Address = mobility.AddressProhibited
	switch p {
	case V4Service:
		f.Status, f.Reason = mobility.NotAuthorizedForIPv4Mobility, wire.IPv4Disabled
	case V4Exhausted:
		f.Status, f.Reason, f.Address = mobility.InsufficientResources, wire.PoolExhausted, mobility.AddressReasonUnspecified
	}
	if r.Dialect != Draft02 {
		return f
	}
	switch p {
	case V4Exhausted:
		if _, dynamic := r.V4Network(); dynamic {
			f.Address = mobility.DynamicAddressNotAvailable
		}
		return f
	case V4Foreign:
		f.Address = mobility.AddressIncorrect
	case V4Invalid:
		f.Address = mobility.AddressInvalid
	}
	f.Status = mobility.AdministrativelyProhibited
	return f
}
