package rfc4285

import (
	"time"

	"kedge/wire"
)

// Judge checks the timestamp, in NTP format, that an authenticated Binding Update has in its message-id option, RFC 4285 6. last is
// the largest that was accepted of the mobile node, 0 if none was; it must live as long as the association, longer than the binding.
// The answer carries the option with echo: the timestamp itself if it was good; else its low half behind our seconds, with status 144
// (MIPV6-ID-MISMATCH). Reasons: wire.TimestampMismatch (too far from our clock), wire.TimestampOld (not above last). window 0 =
// DefaultWindow.
func Judge(timestamp, last uint64, now time.Time, window time.Duration) (echo uint64, reason wire.Reason) {
	if window == 0 {
		window = DefaultWindow
	}
	switch off := FromNTP(timestamp, now).Sub(now); {
	case off > window || off < -window:
		reason = wire.TimestampMismatch
	case timestamp <= last:
		reason = wire.TimestampOld
	default:
		return timestamp, ""
	}
	return NTP(now)&^0xffffffff | timestamp&0xffffffff, reason
}

// Clock is the mobile node's side: what it puts into the message-id option, RFC 4285 6. The zero value is a clock that was
// never corrected.
type Clock struct {
	offset time.Duration
	last   uint64
}

// Next is the timestamp of the next Binding Update: our clock as corrected, and greater than every one before.
func (c *Clock) Next(now time.Time) uint64 {
	c.last = max(NTP(now.Add(c.offset)), c.last+1)
	return c.last
}

// Adjust puts the clock right by the answer with status 144, once that was authenticated: its high half is the home agent's
// time of day, of which half a second is the best guess within.
func (c *Clock) Adjust(echo uint64, now time.Time) {
	agent := FromNTP(echo&^0xffffffff|1<<31, now)
	c.offset = agent.Sub(now)
	c.last = 0 // the agent accepted none of the timestamps that were too far ahead
}

// ntpEpoch is the number of seconds from 1900, where NTP counts from, to 1970.
const ntpEpoch = 2208988800

// NTP is a time in the format of RFC 1305: seconds since 1900 modulo 2^32, and a fraction of 2^-32 s.
func NTP(t time.Time) uint64 {
	return uint64(uint32(t.Unix()+ntpEpoch))<<32 | uint64(t.Nanosecond())<<32/uint64(time.Second)
}

// FromNTP is the time that a timestamp means: of the eras of 136 years, the one that lies nearest to near.
func FromNTP(v uint64, near time.Time) time.Time {
	ahead := int32(uint32(v>>32) - uint32(near.Unix()+ntpEpoch))
	frac := (v & 0xffffffff * uint64(time.Second)) >> 32
	return time.Unix(near.Unix()+int64(ahead), int64(frac))
}
