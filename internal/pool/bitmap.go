package pool

import (
	"encoding/binary"
	"math/bits"
)

func be64(b []byte) uint64       { return binary.BigEndian.Uint64(b) }
func putBE64(b []byte, v uint64) { binary.BigEndian.PutUint64(b, v) }

// A page covers 2^15 units in 4 KiB.
const (
	pageShift = 15
	pageUnits = 1 << pageShift
	pageWords = pageUnits / 64
)

type page struct {
	n    uint32 // bits that are set
	word [pageWords]uint64
}

// bitmap is a sparse set of numbers: pages without a member do not exist.
type bitmap struct {
	pages map[uint64]*page
	n     uint64
}

func newBitmap() bitmap { return bitmap{pages: make(map[uint64]*page)} }

// set adds u; false if it was there.
func (m *bitmap) set(u uint64) bool {
	pg := m.pages[u>>pageShift]
	if pg == nil {
		pg = new(page)
		m.pages[u>>pageShift] = pg
	}
	w, bit := &pg.word[u%pageUnits/64], uint64(1)<<(u%64)
	if *w&bit != 0 {
		return false
	}
	*w |= bit
	pg.n++
	m.n++
	return true
}

// setRange adds [from, to), whole words at once, and gives how many were new.
func (m *bitmap) setRange(from, to uint64) uint64 {
	before := m.n
	for u := from; u < to; {
		if u%64 != 0 || to-u < 64 {
			m.set(u)
			u++
			continue
		}
		pg := m.pages[u>>pageShift]
		if pg == nil {
			pg = new(page)
			m.pages[u>>pageShift] = pg
		}
		w := &pg.word[u%pageUnits/64]
		n := 64 - bits.OnesCount64(*w)
		*w = 1<<64 - 1
		pg.n += uint32(n)
		m.n += uint64(n)
		u += 64
	}
	return m.n - before
}

// clear removes u.
func (m *bitmap) clear(u uint64) {
	pg := m.pages[u>>pageShift]
	if pg == nil {
		return
	}
	w, bit := &pg.word[u%pageUnits/64], uint64(1)<<(u%64)
	if *w&bit == 0 {
		return
	}
	*w &^= bit
	pg.n--
	m.n--
	if pg.n == 0 {
		delete(m.pages, u>>pageShift)
	}
}

// around is how many members the page of u has.
func (m *bitmap) around(u uint64) int {
	if pg := m.pages[u>>pageShift]; pg != nil {
		return int(pg.n)
	}
	return 0
}

func (m *bitmap) has(u uint64) bool {
	pg := m.pages[u>>pageShift]
	return pg != nil && pg.word[u%pageUnits/64]&(1<<(u%64)) != 0
}

// nextFree gives the first number in [from, to) that is no member.
func (m *bitmap) nextFree(from, to uint64) (uint64, bool) {
	for u := from; u < to; {
		pg := m.pages[u>>pageShift]
		switch {
		case pg == nil:
			return u, true
		case pg.n == pageUnits:
			u = (u>>pageShift + 1) << pageShift
			continue
		}
		free := ^pg.word[u%pageUnits/64] >> (u % 64)
		if free != 0 {
			u += uint64(bits.TrailingZeros64(free))
			return u, u < to
		}
		u = u&^63 + 64
	}
	return 0, false
}
