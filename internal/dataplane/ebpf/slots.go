package ebpf

import "time"

// slots gives out the indices of an array from 1 on. One that was given back is used again only after a while, for a program may
// still be reading what it held.
type slots struct {
	next, size uint32 // next that was never given out
	rest       time.Duration
	free       []freed // oldest first
}

type freed struct {
	slot uint32
	at   time.Duration
}

func newSlots(size uint32, rest time.Duration) slots { return slots{next: 1, size: size, rest: rest} }

// take is 0 if there is none.
func (s *slots) take(now time.Duration) uint32 {
	if len(s.free) > 0 && now-s.free[0].at >= s.rest {
		slot := s.free[0].slot
		s.free = s.free[1:]
		return slot
	}
	if s.next < s.size {
		s.next++
		return s.next - 1
	}
	return 0
}

func (s *slots) give(slot uint32, now time.Duration) { s.free = append(s.free, freed{slot, now}) }

// held are the slots in use, as a restart finds them: all up to the highest, but for those given back.
func (s *slots) adopt(used []uint32) {
	taken := map[uint32]bool{}
	for _, u := range used {
		taken[u] = true
		s.next = max(s.next, u+1)
	}
	for i := uint32(1); i < s.next; i++ {
		if !taken[i] {
			s.free = append(s.free, freed{i, -s.rest})
		}
	}
}
