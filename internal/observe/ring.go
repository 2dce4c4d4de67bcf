package observe

import (
	"context"
	"errors"
	"sync"
)

// ErrClosed ends a subscription whose hub was closed.
var ErrClosed = errors.New("the daemon ends")

// MaxSubscriptions is how many readers a hub serves at once.
const MaxSubscriptions = 64

// ErrTooMany refuses a subscription.
var ErrTooMany = errors.New("too many readers of events")

// ring keeps the newest records. The writer never waits; each reader remembers the number of the record it wants next.
type ring struct {
	mu      sync.Mutex // protects all below
	recs    []Record
	next    uint64 // number of the next record; the first is 1
	readers map[*Subscription]struct{}
	closed  bool
}

func newRing(n int) *ring {
	return &ring{recs: make([]Record, n), next: 1, readers: make(map[*Subscription]struct{})}
}

func (r *ring) put(rec Record) {
	r.mu.Lock()
	rec.Seq = r.next
	r.recs[r.next%uint64(len(r.recs))] = rec
	r.next++
	for s := range r.readers {
		select {
		case s.wake <- struct{}{}:
		default: // it is awake already
		}
	}
	r.mu.Unlock()
}

func (r *ring) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	r.closed = true
	for s := range r.readers {
		close(s.wake)
	}
	clear(r.readers)
}

// oldest is the number of the oldest record that is still there.
func (r *ring) oldest() uint64 {
	if n := uint64(len(r.recs)); r.next > n {
		return r.next - n
	}
	return 1
}

// Subscription is one reader. It is used by one goroutine.
type Subscription struct {
	hub      *Hub
	messages bool
	next     uint64
	wake     chan struct{}
	batch    []Record
	at       int
	lost     uint64
	ended    bool
}

// Subscribe reads records from now on, after the newest backlog that are there; messages too, if wanted. Close it.
func (h *Hub) Subscribe(backlog int, messages bool) (*Subscription, error) {
	s := h.subscribe(backlog, false, messages)
	if s == nil {
		return nil, ErrTooMany
	}
	return s, nil
}

func (h *Hub) subscribe(backlog int, own, messages bool) *Subscription {
	r := h.ring
	r.mu.Lock()
	defer r.mu.Unlock()
	if !own && len(r.readers) >= MaxSubscriptions {
		return nil
	}
	s := &Subscription{hub: h, messages: messages, wake: make(chan struct{}, 1)}
	s.next = r.next - min(uint64(max(backlog, 0)), r.next-r.oldest())
	if r.closed {
		close(s.wake)
		s.ended = true
		return s
	}
	if messages {
		h.messages.Add(1)
	}
	r.readers[s] = struct{}{}
	if s.next < r.next {
		s.wake <- struct{}{}
	}
	return s
}

// Close ends the subscription.
func (s *Subscription) Close() {
	r := s.hub.ring
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.ended {
		return
	}
	s.ended = true
	if s.messages {
		s.hub.messages.Add(-1)
	}
	delete(r.readers, s)
}

// maxBatch is how many records a reader copies at once, so that a long backlog does not hold the writer up.
const maxBatch = 256

// Next waits for a record. Lost is how many were overwritten before this one since the last call. The record is valid
// until the next call.
func (s *Subscription) Next(ctx context.Context) (rec *Record, lost uint64, err error) {
	for {
		for s.at < len(s.batch) {
			rec = &s.batch[s.at]
			s.at++
			if rec.Kind == KindMessage && !s.messages {
				continue
			}
			lost, s.lost = s.lost, 0
			return rec, lost, nil
		}
		if s.fill() {
			continue
		}
		select {
		case _, ok := <-s.wake:
			if !ok && !s.fill() {
				return nil, s.lost, ErrClosed
			}
		case <-ctx.Done():
			return nil, s.lost, ctx.Err()
		}
	}
}

// fill copies the next records, if there are any.
func (s *Subscription) fill() bool {
	r := s.hub.ring
	r.mu.Lock()
	defer r.mu.Unlock()
	if old := r.oldest(); s.next < old {
		s.lost += old - s.next
		s.next = old
	}
	n := min(r.next-s.next, maxBatch)
	s.batch, s.at = s.batch[:0], 0
	for i := range n {
		s.batch = append(s.batch, r.recs[(s.next+i)%uint64(len(r.recs))])
	}
	s.next += n
	return n > 0
}

// each reads until the hub is closed.
func (s *Subscription) each(visit func(r *Record, lost uint64)) {
	for {
		r, lost, err := s.Next(context.Background())
		if err != nil {
			return
		}
		visit(r, lost)
	}
}

// Pending says that more records wait.
func (s *Subscription) Pending() bool {
	for i := s.at; i < len(s.batch); i++ {
		if s.messages || s.batch[i].Kind != KindMessage {
			return true
		}
	}
	r := s.hub.ring
	r.mu.Lock()
	defer r.mu.Unlock()
	return s.next < r.next
}
