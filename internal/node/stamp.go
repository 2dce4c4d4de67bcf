package node

import (
	"kedge/internal/ipsec/rfc4285"
	"kedge/wire"
	"kedge/wire/mobility"
)

// stamps are the timestamps of Binding Updates: the mobility message replay protection option of RFC 4285 6. It is sent to a home
// agent that has asked for it by status 145, and goes by the home agent's clock as far as that was told.
type stamps struct {
	on    bool
	clock rfc4285.Clock
	wrong int // corrections of the clock in a row
}

// protectionRFC4285 is Anchor.Protection where RFC 4285 authenticates.
const protectionRFC4285 = "rfc4285"

// maxCorrections is how often in a row a home agent may correct the clock at once.
const maxCorrections = 2

// stamp adds the option to a Binding Update.
func (m *Machine) stamp(s *sent, bu *mobility.BindingUpdate) {
	if m.stamps.on {
		s.stamp = m.stamps.clock.Next(m.now.Wall)
		bu.Options = bu.Options.Add(mobility.MessageID{Timestamp: s.stamp})
	}
}

// replayed says whether an acknowledgement is of another Binding Update with the same sequence number: it does not have the
// timestamp of ours (RFC 4285 6).
func (s *sent) replayed(ba *mobility.BindingAck) bool {
	id, ok := ba.Options.MessageID()
	switch {
	case s.stamp == 0 || ba.Status == mobility.IDMismatch:
		return false
	case !ok:
		return ba.Status.Accepted()
	}
	return id.Timestamp != s.stamp
}

// stamped takes what a refusal says of timestamps. It says whether the Binding Update goes again at once, with a better one.
func (m *Machine) stamped(s *sent, ba *mobility.BindingAck) bool {
	t, r := &m.stamps, wire.MessageIDRequired
	switch {
	case m.ha.protection != protectionRFC4285 || !m.racing():
		return false
	case ba.Status == mobility.MIPv6MsgIDRequired && s.stamp == 0:
		t.on = true
	case mismatch(s, ba):
		r = wire.TimestampMismatch
		if id, ok := ba.Options.MessageID(); ok {
			t.clock.Adjust(id.Timestamp, m.now.Wall)
		}
		if t.wrong++; t.wrong > maxCorrections {
			return false
		}
	default:
		return false
	}
	m.refusal(r, ba.Status, "")
	m.hasten()
	m.sendDue()
	return true
}

// mismatch says whether status 144 is about the timestamp: one that is echoed whole was good, and one that was not sent cannot be
// wrong. Else the status is of RFC 5555, which gave the same number to "cannot force UDP encapsulation".
func mismatch(s *sent, ba *mobility.BindingAck) bool {
	id, ok := ba.Options.MessageID()
	return ba.Status == mobility.IDMismatch && s.stamp != 0 && !(ok && id.Timestamp == s.stamp)
}
