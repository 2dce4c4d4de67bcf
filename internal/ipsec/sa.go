package ipsec

import (
	"io"
	"sync"
	"time"

	"kedge/internal/core"
	"kedge/wire"
)

// retryStore is how long a failed reservation waits before it is tried again.
const retryStore = time.Second

// store is a write to Counters that a lock's holder wants done after it let go of the lock.
type store struct {
	name string
	n    Numbers
	done func(error)
}

// outbound is one security association we send with. Its numbers are used once each, in order, and never wrap.
type outbound struct {
	peer    *peer
	use     Use
	spi     uint32
	suite   Suite
	durable bool
	name    string // of the counter
	limit   uint64 // the last number there is

	mu       sync.Mutex
	t        *transform
	seq      uint64 // the last number used
	reserved uint64 // numbers up to here may be used
	pending  bool   // a reservation is on its way
	closed   bool
	failed   error // of the last reservation
	retry    time.Duration
	warned   bool
	found    bool // the store knew the counter
	packets  uint64
	octets   uint64
}

// want is the reservation to ask for, if it is time: when half of a block is left.
func (o *outbound) want(now core.Now) *store {
	if !o.durable || o.pending || o.reserved-o.seq > Block/2 || o.reserved == o.limit || o.failed != nil && now.Boot < o.retry {
		return nil
	}
	o.pending = true
	to := min(o.seq+Block, o.limit)
	return &store{o.name, Numbers{High: to}, func(err error) {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.pending, o.failed, o.retry = false, err, now.Boot+retryStore
		if err == nil {
			o.reserved = to
		}
	}}
}

// seal takes the next number and appends the ESP packet. near: it is time to warn, once.
func (o *outbound) seal(now core.Now, b []byte, next uint8, payload []byte, rand io.Reader) (out []byte, seq uint64, s *store, near bool, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s = o.want(now)
	switch {
	case o.seq == o.limit:
		return b, o.seq, s, false, &wire.Error{Msg: "ESP", RFC: "RFC 4303 3.3.3", Reason: wire.SequenceExhausted, Err: errNewKeys}
	case o.closed || o.durable && o.seq == o.reserved:
		return b, o.seq, s, false, &wire.Error{Msg: "ESP", RFC: "RFC 4303 5", Reason: wire.SequenceUnreserved, Err: o.failed}
	}
	o.seq++
	out, err = o.t.seal(b, o.spi, o.seq, next, payload, rand)
	if err != nil {
		return b, o.seq, s, false, err
	}
	o.packets++
	o.octets += uint64(len(out) - len(b))
	if near = !o.warned && o.seq > o.limit/10*9; near {
		o.warned = true
	}
	return out, o.seq, s, near, nil
}

// inbound is one security association we receive with.
type inbound struct {
	peer    *peer
	use     Use
	spi     uint32
	suite   Suite
	durable bool
	name    string

	mu      sync.Mutex
	t       *transform
	win     window
	stored  Numbers       // what the store has
	at      time.Duration // when it was asked to,
	counted uint64        // and how many packets there had been
	second  time.Duration // when the one began in which
	within  int           // so many packets came
	pending bool
	failed  error
	retry   time.Duration
	found   bool
	packets uint64
	octets  uint64
	old     uint64 // replayed or behind the window
	behind  uint32 // of them the newest number that rose since the last good packet,
	rising  int    // and how often in a row: a peer that lost its counter looks like that
	badICV  uint64
}

// open verifies and decrypts one packet. The sequence number is looked at first, as RFC 4303 3.4.3 advises, and remembered
// only after the ICV was good.
func (i *inbound) open(now core.Now, b, esp []byte, low uint32) (out []byte, next uint8, seq uint64, s *store, reason wire.Reason) {
	i.mu.Lock()
	defer i.mu.Unlock()
	seq, ok := uint64(low), true
	if i.t.esn {
		seq, ok = i.win.extend(low)
	}
	if !ok || !i.win.fresh(seq) {
		i.old++
		if low > i.behind {
			i.rising++
		} else {
			i.rising = 1
		}
		i.behind = low
		return b, 0, seq, nil, wire.Replayed
	}
	out, next, reason = i.t.open(b, esp, seq)
	if reason == wire.BadICV {
		i.badICV++
	}
	if reason != "" && reason != wire.BadPadding { // bad padding was authenticated: the number is used
		return b, 0, seq, nil, reason
	}
	i.win.mark(seq)
	i.packets++
	i.octets += uint64(len(esp))
	i.behind, i.rising = 0, 0
	if now.Boot-i.second >= time.Second || now.Boot < i.second {
		i.second, i.within = now.Boot, 0
	}
	i.within++
	return out, next, seq, i.save(now, false), reason
}

// save says what to store. While packets are rare the highest number is stored at once and exactly, so that a restart refuses
// neither too little nor the peer's next packet: a mobile node in trouble may send several in a second (MAX_UPDATE_RATE, RFC 6275
// 12), and if a restart refused as many of the next ones, it would be cut off for as long as its back-off grows meanwhile. When
// more come, it is stored with a slack of what two seconds bring.
func (i *inbound) save(now core.Now, tick bool) *store {
	if !i.durable || i.pending || i.failed != nil && now.Boot < i.retry {
		return nil
	}
	since := now.Boot - i.at
	covered := i.win.top <= i.stored.High+i.stored.Slack
	exact := i.win.top == i.stored.High && i.stored.Slack == 0
	if exact || covered && (!tick || since < time.Second) {
		return nil
	}
	n := Numbers{High: i.win.top}
	switch came := i.packets - i.counted; {
	case !tick && i.within <= exactRate:
	case since < time.Second:
		n.Slack = 2 * came
	case came > 1:
		n.Slack = uint64(2 * float64(came) / since.Seconds())
	}
	n.Slack = min(n.Slack, maxSlack)
	i.pending, i.at, i.counted = true, now.Boot, i.packets
	return &store{i.name, n, func(err error) {
		i.mu.Lock()
		i.pending, i.failed, i.retry = false, err, now.Boot+retryStore
		var again *store
		if err == nil {
			i.stored = n
			if i.win.top > n.High+n.Slack {
				again = i.save(now, false)
			}
		}
		i.mu.Unlock()
		if again != nil {
			i.peer.engine.counters.Store(again.name, again.n, again.done)
		}
	}}
}

// exactRate is how many packets of a second have their numbers stored one by one.
const exactRate = 8

// maxSlack bounds what a restart may refuse of a fast peer: he is past it within a block.
const maxSlack = Block
