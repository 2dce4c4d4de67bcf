// Package mem is a core.Store in memory, for tests and simulations. Its data live as long as the process: Reopen gives a
// new handle on them and cuts the old one off, as a crash and a restart do.
package mem

import (
	"bytes"
	"context"
	"iter"
	"slices"
	"sync"

	"kedge/internal/core"
	"kedge/internal/store"
)

// Store is one handle. Its methods may be called from several goroutines.
type Store struct {
	disk *disk

	// Fail, if set, is asked before each commit. An error fails the commit; applied says that the batch is durable all
	// the same, as when a disk dies after writing. Set it before the store is used.
	Fail func(batch []core.Persist) (applied bool, err error)

	mu     sync.Mutex // protects the two below; taken before disk.mu
	leases map[uint64]*lease
	closed bool

	feed store.Feed
}

type lease struct {
	anchor string
	*store.Lease
}

// disk is what outlives a handle.
type disk struct {
	mu    sync.Mutex
	recs  map[string]map[string][]byte // anchor -> key -> value
	rev   uint64
	epoch uint64
}

// New makes an empty store.
func New() *Store {
	s := &Store{disk: &disk{recs: make(map[string]map[string][]byte)}, leases: make(map[uint64]*lease)}
	return s
}

// Reopen gives a new handle on the same data. The leases of the old one end, and it can do nothing more.
func (s *Store) Reopen() *Store {
	s.Close()
	next := &Store{disk: s.disk, leases: make(map[uint64]*lease)}
	s.disk.mu.Lock()
	defer s.disk.mu.Unlock()
	next.feed.Start(s.disk.rev)
	return next
}

// Load implements core.Store.
func (s *Store) Load(ctx context.Context, anchor string) iter.Seq2[core.Persist, error] {
	return func(yield func(core.Persist, error) bool) {
		all, _, err := s.snapshot(anchor)
		if err != nil {
			yield(core.Persist{}, err)
			return
		}
		for _, p := range all {
			if err := ctx.Err(); err != nil {
				yield(core.Persist{}, err)
				return
			}
			if !yield(p, nil) {
				return
			}
		}
	}
}

// snapshot copies an anchor's records in order.
func (s *Store) snapshot(anchor string) ([]core.Persist, uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, 0, store.ErrClosed
	}
	if err := store.CheckAnchor(anchor); err != nil {
		return nil, 0, err
	}
	s.disk.mu.Lock()
	defer s.disk.mu.Unlock()
	var all []core.Persist
	for k, v := range s.disk.recs[anchor] {
		all = append(all, core.Persist{Key: []byte(k), Val: append([]byte{}, v...)})
	}
	slices.SortFunc(all, func(a, b core.Persist) int { return bytes.Compare(a.Key, b.Key) })
	return all, s.disk.rev, nil
}

// Commit implements core.Store.
func (s *Store) Commit(ctx context.Context, token uint64, batch []core.Persist) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, store.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	l := s.leases[token]
	if l == nil {
		return 0, store.ErrFenced
	}
	if err := store.Check(batch); err != nil {
		return 0, err
	}
	var fail error
	if s.Fail != nil {
		applied, err := s.Fail(batch)
		if err != nil && !applied {
			return 0, err
		}
		fail = err
	}
	s.disk.mu.Lock()
	defer s.disk.mu.Unlock()
	recs := s.disk.recs[l.anchor]
	if recs == nil {
		recs = make(map[string][]byte)
		s.disk.recs[l.anchor] = recs
	}
	for _, p := range batch {
		if p.Val == nil {
			delete(recs, string(p.Key))
		} else {
			recs[string(p.Key)] = append([]byte{}, p.Val...)
		}
	}
	s.disk.rev++
	s.feed.Add(s.disk.rev, l.anchor, batch)
	if fail != nil {
		return 0, fail
	}
	return s.disk.rev, nil
}

// Watch implements core.Store.
func (s *Store) Watch(ctx context.Context, anchor string, from uint64) iter.Seq2[core.Persist, error] {
	return s.feed.Watch(ctx, anchor, from, func() ([]core.Persist, uint64, error) { return s.snapshot(anchor) })
}

// Own implements core.Store.
func (s *Store) Own(ctx context.Context, anchor string) (core.Lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, store.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := store.CheckAnchor(anchor); err != nil {
		return nil, err
	}
	for _, l := range s.leases {
		if l.anchor == anchor {
			return nil, store.ErrOwned
		}
	}
	s.disk.mu.Lock()
	s.disk.epoch++
	token := s.disk.epoch
	s.disk.mu.Unlock()
	l := store.NewLease(token, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.leases, token)
		return nil
	})
	s.leases[token] = &lease{anchor: anchor, Lease: l}
	return l, nil
}

// Close implements core.Store. The data stay for Reopen.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, l := range s.leases {
		l.End()
	}
	clear(s.leases)
	s.feed.Close()
	return nil
}

var _ core.Store = (*Store)(nil)
