// Package store is what back ends of core.Store share: their errors, their limits and the feed behind Watch. The back ends
// are mem (tests and simulation) and bolt (one file); storetest holds them to one behaviour:
//
//   - Keys and values are opaque; record versions are the machines' business. Records belong to a virtual anchor.
//   - Own gives the lease of an anchor; there is one at a time. Its token is larger than every token before it.
//   - Commit writes a batch completely or not at all, for the anchor whose lease has the token, and returns when the batch
//     outlives a crash. A token whose lease ended is refused with ErrFenced: a former owner writes nothing.
//   - Later records of a batch win over earlier ones with the same key; a nil Val deletes, an empty one is a value.
//   - Load gives an anchor's records in order of their keys. Those committed meanwhile may be among them or not.
//   - Watch gives what is there (from 0) or what came after revision from, then what comes, until its context ends.
package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"

	"kedge/internal/core"
)

// Limits, the same in every back end.
const (
	MaxKey = 1024    // octets of a key; an empty key is refused
	MaxVal = 1 << 20 // octets of a value
	// MaxAnchor is the longest name of a virtual anchor.
	MaxAnchor = 255
	// History is how many records a Watch may lag behind.
	History = 1 << 14
)

// Errors of every back end; test with errors.Is.
var (
	ErrOwned     = errors.New("the store of this anchor is owned by somebody else")
	ErrFenced    = errors.New("the lease of this token has ended: another owner may write now")
	ErrCompacted = errors.New("the watch is too far behind: load again")
	ErrClosed    = errors.New("the store is closed")
	ErrInvalid   = errors.New("invalid record")
)

// CorruptError says that what is on disk cannot be trusted.
type CorruptError struct {
	Path string
	Err  error
}

// Error names the file and what is wrong with it.
func (e *CorruptError) Error() string { return fmt.Sprintf("store %s is damaged: %v", e.Path, e.Err) }

// Unwrap gives the cause.
func (e *CorruptError) Unwrap() error { return e.Err }

// Check refuses what no back end takes, so that the back ends agree.
func Check(batch []core.Persist) error {
	for i, p := range batch {
		switch {
		case len(p.Key) == 0:
			return fmt.Errorf("record %d: %w: empty key", i, ErrInvalid)
		case len(p.Key) > MaxKey:
			return fmt.Errorf("record %d: %w: key of %d octets, at most %d", i, ErrInvalid, len(p.Key), MaxKey)
		case len(p.Val) > MaxVal:
			return fmt.Errorf("record %d: %w: value of %d octets, at most %d", i, ErrInvalid, len(p.Val), MaxVal)
		}
	}
	return nil
}

// CheckAnchor refuses names that no back end takes.
func CheckAnchor(anchor string) error {
	if anchor == "" || len(anchor) > MaxAnchor {
		return fmt.Errorf("%w: anchor name of %d octets, want 1 to %d", ErrInvalid, len(anchor), MaxAnchor)
	}
	return nil
}

// Feed remembers the newest records for watchers. The zero value is ready.
type Feed struct {
	mu     sync.Mutex
	log    []change // newest History records
	oldest uint64   // revisions up to this one are no longer complete in the log
	grown  chan struct{}
	closed bool
}

type change struct {
	rev    uint64
	anchor string
	p      core.Persist
}

// Start says which revision the store has when it is opened: earlier ones cannot be watched.
func (f *Feed) Start(rev uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.oldest = rev
}

// Add tells watchers of a committed batch; it copies.
func (f *Feed) Add(rev uint64, anchor string, batch []core.Persist) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range batch {
		c := core.Persist{Key: bytes.Clone(p.Key), Val: bytes.Clone(p.Val)}
		f.log = append(f.log, change{rev: rev, anchor: anchor, p: c})
	}
	// Cut at twice the size, so that a record is moved once on average.
	if n := len(f.log) - History; n > History {
		f.oldest = f.log[n-1].rev
		f.log = append(f.log[:0:0], f.log[n:]...)
	}
	f.wake()
}

// Close ends all watches with ErrClosed.
func (f *Feed) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	f.wake()
}

func (f *Feed) wake() {
	if f.grown != nil {
		close(f.grown)
		f.grown = nil
	}
}

// after gives the log's records behind rev, in a slice that stays valid, and a channel that is closed when there are more.
func (f *Feed) after(rev uint64) ([]change, <-chan struct{}, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, nil, ErrClosed
	}
	if rev < f.oldest {
		return nil, nil, ErrCompacted
	}
	if f.grown == nil {
		f.grown = make(chan struct{})
	}
	lo, hi := 0, len(f.log) // the first record behind rev
	for lo < hi {
		if mid := (lo + hi) / 2; f.log[mid].rev <= rev {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return f.log[lo:len(f.log):len(f.log)], f.grown, nil
}

// Watch is core.Store.Watch, given a snapshot of an anchor's records and the revision that it has.
func (f *Feed) Watch(ctx context.Context, anchor string, from uint64, snapshot func() ([]core.Persist, uint64, error)) iter.Seq2[core.Persist, error] {
	return func(yield func(core.Persist, error) bool) {
		if from == 0 {
			all, rev, err := snapshot()
			if err != nil {
				yield(core.Persist{}, err)
				return
			}
			for _, p := range all {
				if !yield(p, nil) {
					return
				}
			}
			from = rev
		}
		for {
			news, grown, err := f.after(from)
			if err != nil {
				yield(core.Persist{}, err)
				return
			}
			for _, c := range news {
				from = c.rev
				if c.anchor == anchor && !yield(c.p, nil) {
					return
				}
			}
			if len(news) > 0 {
				continue
			}
			select {
			case <-grown:
			case <-ctx.Done():
				return
			}
		}
	}
}

// Lease is a core.Lease whose end is told by End.
type Lease struct {
	token   uint64
	release func() error
	once    sync.Once
	lost    chan struct{}
	mu      sync.Mutex
}

// NewLease makes a lease; release is called once.
func NewLease(token uint64, release func() error) *Lease {
	return &Lease{token: token, release: release, lost: make(chan struct{})}
}

// Token fences commits.
func (l *Lease) Token() uint64 { return l.token }

// Lost is closed when the lease has ended, by Release or by the store.
func (l *Lease) Lost() <-chan struct{} { return l.lost }

// End tells the owner that the lease is over.
func (l *Lease) End() {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.lost:
	default:
		close(l.lost)
	}
}

// Release gives the lease back; a second call does nothing.
func (l *Lease) Release() (err error) {
	l.once.Do(func() {
		err = l.release()
		l.End()
	})
	return err
}
