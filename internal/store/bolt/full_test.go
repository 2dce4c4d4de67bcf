package bolt

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"go.etcd.io/bbolt"

	"kedge/internal/core"
	"kedge/internal/store"
)

// TestFullDisk: on a disk without room a commit fails whole and loses nothing that was written; with room again the same store goes
// on, and what it holds is sound. It needs root.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatalf("a disk of its own is needed, and root: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(dir, "s.db")
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	l, err := s.Own(t.Context(), "lma1")
	if err != nil {
		t.Fatal(err)
	}
	commit := func(i int) error {
		_, err := s.Commit(t.Context(), l.Token(), []core.Persist{
			{Key: fmt.Appendf(nil, "a%05d", i), Val: make([]byte, 500)}, {Key: fmt.Appendf(nil, "b%05d", i), Val: make([]byte, 500)},
		})
		return err
	}
	acked := map[string]bool{}
	ack := func(i int) {
		acked[fmt.Sprintf("a%05d", i)], acked[fmt.Sprintf("b%05d", i)] = true, true
	}
	ack(0)
	if err := commit(0); err != nil {
		t.Fatal(err)
	}
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 1<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	failed := 0
	for i := 1; i < 400; i++ {
		switch err := commit(i); {
		case err == nil:
			ack(i)
		case errors.Is(err, syscall.ENOSPC):
			failed++
		default:
			t.Fatalf("commit %d: %v, want no space left on device", i, err)
		}
	}
	if failed == 0 {
		t.Fatal("no commit failed: the test shows nothing")
	}
	same := func(when string) {
		t.Helper()
		n := 0
		for p, err := range s.Load(t.Context(), "lma1") {
			if err != nil {
				t.Fatalf("%s: %v", when, err)
			}
			if !acked[string(p.Key)] {
				t.Errorf("%s: %s is there, whose commit failed", when, p.Key)
			}
			n++
		}
		if n != len(acked) {
			t.Errorf("%s: %d records, want %d", when, n, len(acked))
		}
	}
	same("full")
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	ack(1000)
	if err := commit(1000); err != nil {
		t.Fatalf("with room again: %v", err)
	}
	same("with room again")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(path); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	same("opened again")
}

// TestFileKnowsTheOwner: a later owner that only the file knows of fences an earlier one.
func TestFileKnowsTheOwner(t *testing.T) {
	s, err := Open(filepath.Join(t.TempDir(), "s.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l, err := s.Own(t.Context(), "lma1")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.db.Update(func(tx *bbolt.Tx) error { return setNumber(tx.Bucket(metaBucket), tokenKey("lma1"), l.Token()+1) }); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Commit(t.Context(), l.Token(), []core.Persist{{Key: []byte("k"), Val: []byte("v")}}); !errors.Is(err, store.ErrFenced) {
		t.Errorf("a commit of the former owner: %v, want %v", err, store.ErrFenced)
	}
}
