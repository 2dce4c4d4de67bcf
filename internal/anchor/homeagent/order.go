package homeagent

import (
	"fmt"
	"time"

	"kedge/internal/core"
	"kedge/internal/ipsec/rfc4285"
	"kedge/wire"
	"kedge/wire/mobility"
)

// Passed says whether a timestamp that was accepted counts against later ones. One that lies beyond the window is from before
// the clock here was set back: held against its node, it would lock him out for as long as the clock was wrong.
func Passed(timestamp uint64, now core.Now, window time.Duration) bool {
	return rfc4285.FromNTP(timestamp, now.Wall).Sub(now.Wall) <= window
}

// InOrder holds a request against what was accepted before: by the timestamp of RFC 4285 6 where it has one, whose sequence
// number says nothing then, else by the sequence number. known: there is a registration, of which last is the newest.
func InOrder(r *Request, last *Registration, now core.Now, window time.Duration) *Refusal {
	if r.HasMessageID {
		var newest uint64
		if last != nil && Passed(last.MessageID, now, window) {
			newest = last.MessageID
		}
		if echo, reason := rfc4285.Judge(r.MessageID, newest, now.Wall, window); reason != "" {
			return &Refusal{Status: mobility.IDMismatch, Reason: reason, MessageID: echo}
		}
		return nil
	}
	if last != nil && !mobility.Newer(r.Sequence, last.Sequence) {
		return &Refusal{Status: mobility.SequenceOutOfWindow, Reason: wire.SequenceOld, Sequence: last.Sequence,
			Detail: fmt.Sprintf("%d is not newer than %d", r.Sequence, last.Sequence)}
	}
	return nil
}
