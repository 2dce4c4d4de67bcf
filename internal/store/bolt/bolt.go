// Package bolt is a core.Store in one file (go.etcd.io/bbolt): no server, every commit is on the disk when it returns.
//
// The file holds a bucket "meta" (format, epoch, revision) and one bucket an anchor, "anchor/NAME", whose values are
// {format 1, CRC-32C of key and value, value}. bbolt keeps its own tree consistent over a crash; the checksum finds what a
// disk or another program has changed. A file that cannot be trusted is never used and never deleted: Open says so, and
// Recover moves it aside.
package bolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"kedge/internal/core"
	"kedge/internal/store"
)

const (
	format   = 1
	crcStart = 1
	valStart = 5
	// lockWait is how long Open waits for another process to let go of the file: a restart overlaps a little.
	lockWait = 2 * time.Second
	// loadChunk is how many records Load reads in one transaction: an open one would block commits that grow the file.
	loadChunk = 2048
)

var (
	metaBucket = []byte("meta")
	keyFormat  = []byte("format")
	keyEpoch   = []byte("epoch")
	keyRev     = []byte("rev")
	crcTable   = crc32.MakeTable(crc32.Castagnoli)
)

// Store is an open file. Its methods may be called from several goroutines.
type Store struct {
	path  string
	db    *bbolt.DB
	fresh bool

	mu     sync.Mutex // protects the two below
	leases map[uint64]*lease
	closed bool

	commit sync.Mutex // one commit at a time, so that watchers see revisions in order
	feed   store.Feed
}

type lease struct {
	anchor string
	*store.Lease
}

// Open opens the file, or makes it with its folder. A file that another process has open is store.ErrOwned; one that is
// damaged is a *store.CorruptError, and stays as it is.
func Open(path string) (*Store, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	s := &Store{path: path, leases: make(map[uint64]*lease)}
	if st, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) || err == nil && st.Size() == 0 {
		s.fresh = true
	} else if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	} else if st.IsDir() {
		return nil, fmt.Errorf("store %s: is a folder, want a file", path)
	}
	err := s.guard(func() (err error) {
		if err := checkFile(path); err != nil {
			return err
		}
		s.db, err = bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockWait, FreelistType: bbolt.FreelistMapType})
		switch {
		case errors.Is(err, berrors.ErrTimeout):
			return fmt.Errorf("store %s: %w%s", path, store.ErrOwned, holder(path))
		case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrVersionMismatch), errors.Is(err, berrors.ErrChecksum):
			return &store.CorruptError{Path: path, Err: err}
		case err != nil:
			return fmt.Errorf("store %s: %w", path, err)
		}
		return s.begin()
	})
	if err != nil {
		if s.db != nil {
			s.db.Close()
		}
		return nil, err
	}
	if s.fresh {
		if err := syncDir(filepath.Dir(path)); err != nil {
			return nil, errors.Join(fmt.Errorf("store %s: %w", path, err), s.db.Close())
		}
	}
	return s, nil
}

// Lost is what Recover moved aside.
type Lost struct {
	Moved string // where the damaged file is now
	Err   error  // what was wrong with it
}

// Recover opens the file; if it is damaged, it moves it aside and starts an empty one. The caller must report lost and
// hand out nothing dynamic for one maximum lifetime: bindings exist that the new store knows nothing of.
func Recover(path string, now time.Time) (s *Store, lost *Lost, err error) {
	s, err = Open(path)
	var corrupt *store.CorruptError
	if !errors.As(err, &corrupt) {
		return s, nil, err
	}
	lost = &Lost{Err: corrupt}
	for i := 0; ; i++ { // never over an older one
		lost.Moved = fmt.Sprintf("%s.lost-%s", path, now.UTC().Format("20060102T150405Z"))
		if i > 0 {
			lost.Moved += fmt.Sprintf("-%d", i)
		}
		if _, err := os.Lstat(lost.Moved); errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if err := errors.Join(os.Rename(path, lost.Moved), syncDir(filepath.Dir(path))); err != nil {
		return nil, nil, fmt.Errorf("store: moving the damaged file aside: %w", err)
	}
	s, err = Open(path)
	return s, lost, err
}

// Fresh reports that Open found no file: a first start, or a store that somebody removed.
func (s *Store) Fresh() bool { return s.fresh }

// begin reads or writes the meta bucket.
func (s *Store) begin() error {
	return s.db.Update(func(tx *bbolt.Tx) error {
		m := tx.Bucket(metaBucket)
		if m == nil {
			var err error
			if m, err = tx.CreateBucket(metaBucket); err != nil {
				return err
			}
			if err := m.Put(keyFormat, []byte{format}); err != nil {
				return err
			}
		}
		if f := m.Get(keyFormat); len(f) != 1 || f[0] != format {
			return fmt.Errorf("store %s: format %v is not %d: it was written by another version of Kedge", s.path, f, format)
		}
		s.feed.Start(number(m, keyRev))
		return nil
	})
}

func number(b *bbolt.Bucket, key []byte) uint64 {
	if v := b.Get(key); len(v) == 8 {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}

func setNumber(b *bbolt.Bucket, key []byte, v uint64) error {
	return b.Put(key, binary.BigEndian.AppendUint64(nil, v))
}

func bucketOf(anchor string) []byte { return []byte("anchor/" + anchor) }

// guard turns what bbolt does with a damaged file (panics, and faults of the memory map) into errors.
func (s *Store) guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = &store.CorruptError{Path: s.path, Err: fmt.Errorf("%v", r)}
		}
	}()
	return f()
}

// usable fails when the store is closed.
func (s *Store) usable() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return store.ErrClosed
	}
	return nil
}

// Load implements core.Store. A record whose checksum is wrong ends it with a *store.CorruptError.
func (s *Store) Load(ctx context.Context, anchor string) iter.Seq2[core.Persist, error] {
	return func(yield func(core.Persist, error) bool) {
		var after []byte
		for {
			chunk, _, err := s.chunk(anchor, after, loadChunk)
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				yield(core.Persist{}, err)
				return
			}
			for _, p := range chunk {
				if !yield(p, nil) {
					return
				}
			}
			if len(chunk) < loadChunk {
				return
			}
			after = chunk[len(chunk)-1].Key
		}
	}
}

// chunk copies up to n records behind a key, and gives the revision that they have.
func (s *Store) chunk(anchor string, after []byte, n int) (out []core.Persist, rev uint64, err error) {
	if err := store.CheckAnchor(anchor); err != nil {
		return nil, 0, err
	}
	if err := s.usable(); err != nil {
		return nil, 0, err
	}
	err = s.guard(func() error {
		return s.db.View(func(tx *bbolt.Tx) error {
			rev = number(tx.Bucket(metaBucket), keyRev)
			b := tx.Bucket(bucketOf(anchor))
			if b == nil {
				return nil
			}
			c := b.Cursor()
			k, v := c.First()
			if after != nil {
				if k, v = c.Seek(after); bytes.Equal(k, after) {
					k, v = c.Next()
				}
			}
			for ; k != nil && len(out) < n; k, v = c.Next() {
				val, err := unseal(k, v)
				if err != nil {
					return &store.CorruptError{Path: s.path, Err: err}
				}
				both := make([]byte, 0, len(k)+len(val))
				both = append(append(both, k...), val...)
				out = append(out, core.Persist{Key: both[:len(k):len(k)], Val: both[len(k):]})
			}
			return nil
		})
	})
	return out, rev, s.closedError(err)
}

// seal wraps a value for the file; unseal unwraps it.
func seal(key, val []byte) []byte {
	b := make([]byte, valStart, valStart+len(val))
	b[0] = format
	binary.BigEndian.PutUint32(b[crcStart:], sum(key, val))
	return append(b, val...)
}

func unseal(key, b []byte) ([]byte, error) {
	if len(b) < valStart || b[0] != format {
		return nil, fmt.Errorf("record %x: no value of format %d", key, format)
	}
	if binary.BigEndian.Uint32(b[crcStart:]) != sum(key, b[valStart:]) {
		return nil, fmt.Errorf("record %x: wrong checksum", key)
	}
	return b[valStart:], nil
}

func sum(key, val []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, crcTable), crcTable, val)
}

// Commit implements core.Store: one bbolt transaction, synced before it returns.
func (s *Store) Commit(ctx context.Context, token uint64, batch []core.Persist) (rev uint64, err error) {
	if err := s.usable(); err != nil {
		return 0, err
	}
	if err := store.Check(batch); err != nil {
		return 0, err
	}
	s.commit.Lock()
	defer s.commit.Unlock()
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	s.mu.Lock()
	l := s.leases[token]
	s.mu.Unlock()
	if l == nil {
		return 0, store.ErrFenced
	}
	err = s.guard(func() error {
		return s.db.Update(func(tx *bbolt.Tx) error {
			m := tx.Bucket(metaBucket)
			// The file has the last word: it knows of every owner after this one.
			if number(m, tokenKey(l.anchor)) != token {
				return store.ErrFenced
			}
			b, err := tx.CreateBucketIfNotExists(bucketOf(l.anchor))
			if err != nil {
				return err
			}
			for _, p := range batch {
				if p.Val == nil {
					err = b.Delete(p.Key)
				} else {
					err = b.Put(p.Key, seal(p.Key, p.Val))
				}
				if err != nil {
					return err
				}
			}
			rev = number(m, keyRev) + 1
			return setNumber(m, keyRev, rev)
		})
	})
	if err != nil {
		return 0, s.closedError(err)
	}
	s.feed.Add(rev, l.anchor, batch)
	return rev, nil
}

func (s *Store) closedError(err error) error {
	if errors.Is(err, berrors.ErrDatabaseNotOpen) {
		return store.ErrClosed
	}
	return err
}

func tokenKey(anchor string) []byte { return []byte("token/" + anchor) }

// Watch implements core.Store, for changes made through this handle.
func (s *Store) Watch(ctx context.Context, anchor string, from uint64) iter.Seq2[core.Persist, error] {
	return s.feed.Watch(ctx, anchor, from, func() ([]core.Persist, uint64, error) {
		return s.chunk(anchor, nil, int(^uint(0)>>1))
	})
}

// Own implements core.Store. The token is written to the file before it is given.
func (s *Store) Own(ctx context.Context, anchor string) (core.Lease, error) {
	if err := store.CheckAnchor(anchor); err != nil {
		return nil, err
	}
	s.commit.Lock() // not during a commit of the owner before
	defer s.commit.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, store.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for _, l := range s.leases {
		if l.anchor == anchor {
			return nil, fmt.Errorf("anchor %s: %w", anchor, store.ErrOwned)
		}
	}
	var token uint64
	err := s.guard(func() error {
		return s.db.Update(func(tx *bbolt.Tx) error {
			m := tx.Bucket(metaBucket)
			token = number(m, keyEpoch) + 1
			return errors.Join(setNumber(m, keyEpoch, token), setNumber(m, tokenKey(anchor), token))
		})
	})
	if err != nil {
		return nil, err
	}
	l := store.NewLease(token, func() error {
		s.commit.Lock() // a commit under way is finished by its owner
		defer s.commit.Unlock()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.leases, token)
		return nil
	})
	s.leases[token] = &lease{anchor: anchor, Lease: l}
	return l, nil
}

// Close implements core.Store. It waits for a commit under way.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	for _, l := range s.leases {
		l.End()
	}
	clear(s.leases)
	s.mu.Unlock()
	s.feed.Close()
	s.commit.Lock()
	defer s.commit.Unlock()
	return s.db.Close()
}

var _ core.Store = (*Store)(nil)
