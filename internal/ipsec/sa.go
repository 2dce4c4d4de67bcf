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
	block   uint64 // how many numbers a reservation takes

	mu       sync.Mutex
	t        *transform // of signalling; nil: its owner has transforms of its own
	seq      uint64     // the last number used
	reserved uint64     // numbers up to here may be used
	pending  bool       // a reservation is on its way
	closed   bool
	failed   error // of the last reservation
	refusal  error // what packets are refused with then
	retry    time.Duration
	warned   bool
	found    bool // the store knew the counter
	packets  uint64
	octets   uint64
}

// want is the reservation to ask for, if it is time: when half of a block is left.
func (o *outbound) want(now core.Now) *store {
	if !o.durable || o.pending || o.reserved-o.seq > o.block/2 || o.reserved == o.limit || o.failed != nil && now.Boot < o.retry {
		return nil
	}
	o.pending = true
	to := o.seq + min(o.block, o.limit-o.seq) // in this order: no sum may pass 2^64
	return &store{o.name, Numbers{High: to}, func(err error) {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.pending, o.failed, o.retry = false, err, now.Boot+retryStore
		if err == nil {
			o.reserved = to
		} else {
			o.refusal = &wire.Error{Msg: "ESP", RFC: "RFC 4303 5", Reason: wire.SequenceUnreserved, Err: err}
		}
	}}
}

// take gives the next number. near: it is time to warn, once. The lock is held.
func (o *outbound) take(now core.Now) (seq uint64, s *store, near bool, err error) {
	s = o.want(now)
	switch {
	case o.seq == o.limit:
		return o.seq, s, false, errExhausted
	case o.closed || o.durable && o.seq == o.reserved:
		if o.failed == nil {
			return o.seq, s, false, errUnreserved
		}
		return o.seq, s, false, o.refusal
	}
	o.seq++
	if near = !o.warned && o.seq > o.limit/10*9; near {
		o.warned = true
	}
	return o.seq, s, near, nil
}

// What refuses each packet from some time on must cost nothing.
var (
	errExhausted  = &wire.Error{Msg: "ESP", RFC: "RFC 4303 3.3.3", Reason: wire.SequenceExhausted, Err: errNewKeys}
	errUnreserved = &wire.Error{Msg: "ESP", RFC: "RFC 4303 5", Reason: wire.SequenceUnreserved}
)

// seal takes the next number and appends the ESP packet. near: it is time to warn, once.
func (o *outbound) seal(now core.Now, b []byte, next uint8, payload []byte, rand io.Reader) (out []byte, seq uint64, s *store, near bool, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	seq, s, near, err = o.take(now)
	if err != nil {
		return b, seq, s, false, err
	}
	out, err = o.t.seal(b, o.spi, seq, next, payload, rand)
	if err != nil {
		return b, seq, s, near, err
	}
	o.packets++
	o.octets += uint64(len(out) - len(b))
	return out, seq, s, near, nil
}

// inbound is one security association we receive with.
type inbound struct {
	peer     *peer
	use      Use
	spi      uint32
	suite    Suite
	durable  bool
	name     string
	esn      bool
	counters Counters

	mu      sync.Mutex
	t       *transform // of signalling
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
	doubt   Numbers // what the store had at the start: numbers in the slack are refused, whether they were seen or not
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
	seq, ok := i.check(low)
	if !ok {
		return b, 0, seq, nil, wire.Replayed
	}
	out, next, reason = i.t.open(b, esp, seq)
	if s, ok = i.settle(now, seq, len(esp), reason); !ok {
		return b, 0, seq, nil, wire.Replayed // not seen: the lock was held
	}
	return out, next, seq, s, reason
}

// check gives the whole sequence number, and says whether a packet may have it. The lock is held.
func (i *inbound) check(low uint32) (seq uint64, ok bool) {
	seq, ok = uint64(low), true
	if i.esn {
		seq, ok = i.win.extend(low)
	}
	if ok && i.win.fresh(seq) {
		return seq, true
	}
	if i.doubtful(seq) {
		i.old++ // says nothing of the peer's counter
		return seq, false
	}
	i.replayed(low)
	return seq, false
}

// doubtful says whether a number is refused because nobody knows whether it was seen in the moments before a restart.
func (i *inbound) doubtful(seq uint64) bool {
	return seq > i.doubt.High && seq <= i.doubt.High+i.doubt.Slack
}

func (i *inbound) replayed(low uint32) {
	i.old++
	if low > i.behind {
		i.rising++
	} else {
		i.rising = 1
	}
	i.behind = low
}

// settle remembers what a transform said of a packet that check let pass. ok is false if its number was seen since. The lock is
// held.
func (i *inbound) settle(now core.Now, seq uint64, octets int, reason wire.Reason) (s *store, ok bool) {
	if reason == wire.BadICV {
		i.badICV++
	}
	if reason != "" && reason != wire.BadPadding { // bad padding was authenticated: the number is used
		return nil, true
	}
	if !i.win.fresh(seq) {
		i.replayed(uint32(seq))
		return nil, false
	}
	i.win.mark(seq)
	i.packets++
	i.octets += uint64(octets)
	i.behind, i.rising = 0, 0
	if now.Boot-i.second >= time.Second || now.Boot < i.second {
		i.second, i.within = now.Boot, 0
	}
	i.within++
	return i.save(now, false), true
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
			i.counters.Store(again.name, again.n, again.done)
		}
	}}
}

// exactRate is how many packets of a second have their numbers stored one by one.
const exactRate = 8

// maxSlack bounds what a restart may refuse of a fast peer: he is past it within a block.
const maxSlack = Block
