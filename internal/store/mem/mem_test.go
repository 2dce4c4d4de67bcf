package mem

import (
	"errors"
	"testing"

	"kedge/internal/core"
	"kedge/internal/store"
	"kedge/internal/store/storetest"
)

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t testing.TB) func() core.Store {
		var s *Store
		return func() core.Store {
			if s == nil {
				s = New()
			} else {
				s = s.Reopen()
			}
			return s
		}
	})
}

func TestFail(t *testing.T) {
	s := New()
	broken := errors.New("disk full")
	applied := false
	s.Fail = func(batch []core.Persist) (bool, error) {
		if string(batch[0].Key) == "bad" {
			return applied, broken
		}
		return true, nil
	}
	l, err := s.Own(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	count := func() (n int) {
		for range s.Load(t.Context(), "a") {
			n++
		}
		return n
	}
	bad := []core.Persist{{Key: []byte("bad"), Val: []byte{1}}}
	if _, err := s.Commit(t.Context(), l.Token(), bad); err != broken || count() != 0 {
		t.Errorf("%v, %d records", err, count())
	}
	applied = true
	if _, err := s.Commit(t.Context(), l.Token(), bad); err != broken || count() != 1 {
		t.Errorf("%v, %d records: want the error and the record", err, count())
	}
	if _, err := s.Commit(t.Context(), l.Token(), []core.Persist{{Key: []byte("good"), Val: []byte{1}}}); err != nil {
		t.Error(err)
	}
	next := s.Reopen()
	if _, err := next.Commit(t.Context(), l.Token(), bad); !errors.Is(err, store.ErrFenced) {
		t.Errorf("token of before: %v", err)
	}
}
