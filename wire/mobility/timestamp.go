package mobility

import "time"

// Timestamp orders registrations, RFC 5213 8.8: 48 bits of seconds since 1970 and 16 bits of 1/65536 s. As the numbers
// grow with time, Values compare as integers.
type Timestamp struct{ Value uint64 }

// TimestampOf is the last 1/65536 s that is not after t.
func TimestampOf(t time.Time) Timestamp {
	return Timestamp{uint64(t.Unix())<<16 | uint64(t.Nanosecond())<<16/uint64(time.Second)}
}

// Time is the first nanosecond of the timestamp, in UTC, so that TimestampOf gives the timestamp back.
func (v Timestamp) Time() time.Time {
	fraction := v.Value & 0xffff
	return time.Unix(int64(v.Value>>16), int64((fraction*uint64(time.Second)+0xffff)>>16)).UTC()
}
