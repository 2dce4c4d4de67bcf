package ipsec

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"sync"
)

// Block is how many outbound sequence numbers are reserved at a time. A restart without Close skips up to as many.
const Block = 1 << 16

// Counters keeps what must outlive a restart. Package durable has one over a store; Volatile forgets.
type Counters interface {
	// Load gives the numbers kept under a name; ok is false where there are none.
	Load(name string) (n Numbers, ok bool, err error)
	// Store makes the numbers durable and then calls done, once, from any goroutine, also from within Store. Of several calls
	// for a name the last one counts. done may call Store.
	Store(name string, n Numbers, done func(error))
}

// Numbers is one record of Counters.
type Numbers struct {
	// High is the highest number that may have been sent, or the highest that was received.
	High uint64
	// Slack is, inbound, how many beyond High may have been received when this is read after a crash.
	Slack uint64
}

// Volatile is a Counters in memory, for tests and simulations.
type Volatile struct {
	mu sync.Mutex
	m  map[string]Numbers
}

// Load implements Counters.
func (v *Volatile) Load(name string) (Numbers, bool, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	n, ok := v.m[name]
	return n, ok, nil
}

// Store implements Counters.
func (v *Volatile) Store(name string, n Numbers, done func(error)) {
	v.mu.Lock()
	if v.m == nil {
		v.m = make(map[string]Numbers)
	}
	v.m[name] = n
	v.mu.Unlock()
	done(nil)
}

// counterName names the counter of one direction of an association after its keys: other keys are another association and
// begin anew, and a peer that gets another name in the configuration keeps its numbers. The name says nothing about the keys.
func counterName(direction string, spi uint32, h Half) string {
	m := hmac.New(sha256.New, h.Integrity)
	m.Write([]byte("kedge sequence numbers"))
	m.Write(binary.BigEndian.AppendUint32(nil, spi))
	m.Write(h.Encryption)
	return direction + "/" + hex.EncodeToString(m.Sum(nil)[:16])
}
