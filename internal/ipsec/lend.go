package ipsec

import "sync"

// lender gives transforms of one key to several goroutines at once. AES-GCM has no state but scratch, so all keys share theirs;
// CBC and HMAC have some, so each key has a few whole ones.
type lender struct {
	suite Suite
	keys  Half
	model *transform // never lent

	mu   sync.Mutex
	free []*transform // as many as were ever lent at once: one a goroutine
}

var scratch = sync.Pool{New: func() any { return new(transform) }}

func (l *lender) init(s Suite, k Half, esn bool) (err error) {
	l.suite, l.keys = s, k
	l.model, err = newTransform(s, k, esn)
	return err
}

// lend gives a transform until back.
func (l *lender) lend() *transform {
	if l.model.aead != nil {
		t := scratch.Get().(*transform)
		t.aead, t.iv, t.icv, t.align, t.esn = l.model.aead, l.model.iv, l.model.icv, l.model.align, l.model.esn
		copy(t.nonce[:gcmSalt], l.model.nonce[:])
		return t
	}
	l.mu.Lock()
	if n := len(l.free); n > 0 {
		t := l.free[n-1]
		l.free = l.free[:n-1]
		l.mu.Unlock()
		return t
	}
	l.mu.Unlock()
	t, err := newTransform(l.suite, l.keys, l.model.esn)
	if err != nil {
		panic("ipsec: keys that made a transform make none: " + err.Error()) // init would have failed
	}
	return t
}

func (l *lender) back(t *transform) {
	if t.aead != nil {
		scratch.Put(t)
		return
	}
	l.mu.Lock()
	l.free = append(l.free, t)
	l.mu.Unlock()
}
