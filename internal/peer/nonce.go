package peer

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"time"

	"kedge/wire/mobility"
)

// generation is one nonce with the node key that goes with it, so that a nonce index names both (RFC 6275 5.2.7). Tokens are made
// from the newest, for 30 s from its first use; it is accepted for 240 s.
type generation struct {
	number uint64 // counts; the index is its low end
	born   time.Duration
	kcn    [mobility.NodeKeyLen]byte
	nonce  [mobility.NonceLen]byte
}

// index is what messages call it. 0 is left out: mobile nodes send it where an index has no meaning (RFC 6275 11.7.2).
func (g *generation) index() uint16 { return uint16(g.number%0xffff) + 1 }

func (g *generation) token(a netip.Addr, careOf bool) [mobility.TokenLen]byte {
	return mobility.KeygenToken(g.kcn[:], g.nonce[:], a, careOf)
}

func (g *generation) end() time.Duration { return g.born + maxNonceLifetime }

// nonces are the generations that are accepted, oldest first: MAX_NONCE_LIFETIME / 30 s of them at most. A new one is made when a
// test asks for a token and the newest is too old, so an idle correspondent makes none, and no flood makes more.
type nonces struct {
	list [maxNonceLifetime / nonceInterval]generation
	n    int
	next uint64
}

// begin takes the first number and a seed for others from rand: indices after a restart are others than those before, so that tokens
// of an earlier life are told to be expired (status 136 to 138).
func (s *nonces) begin(rand io.Reader, seed []byte) error {
	var first [4]byte
	if _, err := io.ReadFull(rand, first[:]); err != nil {
		return fmt.Errorf("peer: randomness: %w", err)
	}
	s.next = uint64(binary.BigEndian.Uint32(first[:]))
	if _, err := io.ReadFull(rand, seed); err != nil {
		return fmt.Errorf("peer: randomness: %w", err)
	}
	return nil
}

// expire forgets what must not be accepted any more.
func (s *nonces) expire(now time.Duration) {
	dead := 0
	for dead < s.n && s.list[dead].end() <= now {
		dead++
	}
	if dead == 0 {
		return
	}
	copy(s.list[:], s.list[dead:s.n])
	clear(s.list[s.n-dead : s.n])
	s.n -= dead
}

// current is the generation that tokens are made from now.
func (s *nonces) current(now time.Duration, rand io.Reader) (*generation, error) {
	s.expire(now)
	if s.n > 0 && now < s.list[s.n-1].born+nonceInterval {
		return &s.list[s.n-1], nil
	}
	g := generation{number: s.next, born: now}
	if _, err := io.ReadFull(rand, g.kcn[:]); err != nil {
		return nil, fmt.Errorf("randomness: %w", err)
	}
	if _, err := io.ReadFull(rand, g.nonce[:]); err != nil {
		return nil, fmt.Errorf("randomness: %w", err)
	}
	s.next++
	s.list[s.n] = g
	s.n++
	return &s.list[s.n-1], nil
}

// find gives the generation of an index, nil for one that is not accepted any more or never was.
func (s *nonces) find(now time.Duration, index uint16) *generation {
	s.expire(now)
	for i := range s.n {
		if s.list[i].index() == index {
			return &s.list[i]
		}
	}
	return nil
}

func (s *nonces) deadline() (time.Duration, bool) {
	if s.n == 0 {
		return 0, false
	}
	return s.list[0].end(), true
}
