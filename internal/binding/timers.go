package binding

import "time"

// timers is a heap of four children a node over the entries' deadlines. A deadline that moves away leaves its place in
// the heap alone until it comes to the top: a refresh, by far the most frequent change, costs nothing.
type timers []timer

type timer struct {
	at time.Duration // never later than the entry's Expires
	i  Index
}

// Schedule makes Next return the entry at its Expires time. Call it after Expires changed.
func (c *Cache) Schedule(i Index) {
	e := c.At(i)
	if e.timer == 0 {
		c.timers = append(c.timers, timer{e.Expires, i})
		e.timer = uint32(len(c.timers))
		c.up(len(c.timers) - 1)
		return
	}
	n := int(e.timer - 1)
	if e.Expires < c.timers[n].at {
		c.timers[n].at = e.Expires
		c.up(n)
	}
}

// Unschedule forgets the entry's deadline.
func (c *Cache) Unschedule(i Index) {
	e := c.At(i)
	if e.timer == 0 {
		return
	}
	n, last := int(e.timer-1), len(c.timers)-1
	e.timer = 0
	if n != last {
		c.place(n, c.timers[last])
	}
	c.timers = c.timers[:last]
	if n != last {
		c.up(n)
		c.down(n)
	}
}

// Next is the entry whose deadline comes first.
func (c *Cache) Next() (i Index, at time.Duration, ok bool) {
	for len(c.timers) > 0 {
		t := c.timers[0]
		e := c.At(t.i)
		if e.Expires == t.at {
			return t.i, t.at, true
		}
		c.timers[0].at = e.Expires
		c.down(0)
	}
	return 0, 0, false
}

func (c *Cache) place(n int, t timer) {
	c.timers[n] = t
	c.At(t.i).timer = uint32(n + 1)
}

func (c *Cache) up(n int) {
	t := c.timers[n]
	for n > 0 {
		parent := (n - 1) / 4
		if c.timers[parent].at <= t.at {
			break
		}
		c.place(n, c.timers[parent])
		n = parent
	}
	c.place(n, t)
}

func (c *Cache) down(n int) {
	t := c.timers[n]
	for {
		first := 4*n + 1
		if first >= len(c.timers) {
			break
		}
		least := first
		for k := first + 1; k < min(first+4, len(c.timers)); k++ {
			if c.timers[k].at < c.timers[least].at {
				least = k
			}
		}
		if c.timers[least].at >= t.at {
			break
		}
		c.place(n, c.timers[least])
		n = least
	}
	c.place(n, t)
}
