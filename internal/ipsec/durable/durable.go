// Package durable keeps the sequence numbers of security associations in a store: an ipsec.Counters with a writer goroutine,
// which puts whatever is waiting into one commit. The records are under a virtual anchor name of their own, so that the
// machines of the process and the security associations have a lease each.
//
// Records are never deleted: their names come from keys, and keys that come back into use must find their numbers.
package durable

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"

	"kedge/internal/core"
	"kedge/internal/ipsec"
)

// Owner gives the virtual anchor name of the security associations of a daemon.
func Owner(self string) string { return self + "/sa" }

const (
	prefix  = "sa/"
	version = 1
	size    = 1 + 8 + 8
)

// maxBatch is how many records one commit takes.
const maxBatch = 4096

// Counters implements ipsec.Counters.
type Counters struct {
	store core.Store
	lease core.Lease

	mu      sync.Mutex
	last    map[string]ipsec.Numbers // what the store has, as of Open and of each commit
	waiting []write
	closed  bool

	wake chan struct{}
	done chan struct{}
}

type write struct {
	name string
	n    ipsec.Numbers
	done func(error)
}

// ErrClosed is the outcome of a Store after Close.
var ErrClosed = errors.New("the sequence numbers' store is closed")

// Open takes the lease of owner and reads its records. A record that cannot be read is an error: to begin at 1 instead would use
// numbers twice. ctx is for opening only; Close ends the writer.
func Open(ctx context.Context, store core.Store, owner string) (*Counters, error) {
	lease, err := store.Own(ctx, owner)
	if err != nil {
		return nil, fmt.Errorf("sequence numbers: %w", err)
	}
	c := &Counters{store: store, lease: lease, last: map[string]ipsec.Numbers{}, wake: make(chan struct{}, 1), done: make(chan struct{})}
	for p, err := range store.Load(ctx, owner) {
		if err == nil {
			err = c.read(p)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("sequence numbers: %w", err), lease.Release())
		}
	}
	go c.run()
	return c, nil
}

func (c *Counters) read(p core.Persist) error {
	name, ok := strings.CutPrefix(string(p.Key), prefix)
	if !ok || len(p.Val) != size || p.Val[0] != version {
		return fmt.Errorf("record %q is not one of version %d", p.Key, version)
	}
	c.last[name] = ipsec.Numbers{High: binary.BigEndian.Uint64(p.Val[1:]), Slack: binary.BigEndian.Uint64(p.Val[9:])}
	return nil
}

func record(w write) core.Persist {
	v := append(make([]byte, 0, size), version)
	v = binary.BigEndian.AppendUint64(v, w.n.High)
	return core.Persist{Key: []byte(prefix + w.name), Val: binary.BigEndian.AppendUint64(v, w.n.Slack)}
}

// Load implements ipsec.Counters.
func (c *Counters) Load(name string) (ipsec.Numbers, bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, ok := c.last[name]
	return n, ok, nil
}

// Store implements ipsec.Counters. done runs on the writer's goroutine, or at once after Close.
func (c *Counters) Store(name string, n ipsec.Numbers, done func(error)) {
	c.mu.Lock()
	closed := c.closed
	if !closed {
		c.waiting = append(c.waiting, write{name, n, done})
	}
	c.mu.Unlock()
	if closed {
		done(ErrClosed)
		return
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// take gives the next batch. closed: there will be none after it.
func (c *Counters) take() (batch []write, closed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := min(len(c.waiting), maxBatch)
	batch, c.waiting = c.waiting[:n:n], c.waiting[n:]
	return batch, c.closed && len(c.waiting) == 0
}

func (c *Counters) run() {
	defer close(c.done)
	for {
		batch, closed := c.take()
		if len(batch) > 0 {
			c.commit(batch)
			continue
		}
		if closed {
			return
		}
		<-c.wake
	}
}

func (c *Counters) commit(batch []write) {
	recs := make([]core.Persist, len(batch))
	for i, w := range batch {
		recs[i] = record(w)
	}
	// Not the context of Open: what waits at the end is written too, and Close waits for it.
	_, err := c.store.Commit(context.Background(), c.lease.Token(), recs)
	if err == nil {
		c.mu.Lock()
		for _, w := range batch {
			c.last[w.name] = w.n
		}
		c.mu.Unlock()
	}
	for _, w := range batch {
		w.done(err)
	}
}

// Close writes what waits and lets go of the lease. Call it after Engine.Close.
func (c *Counters) Close() error {
	c.mu.Lock()
	was := c.closed
	c.closed = true
	c.mu.Unlock()
	if was {
		return nil
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
	<-c.done
	return c.lease.Release()
}
