package binding

// arena stores short texts without a pointer for each. A text of n octets lies in a slot of its size class; slots are
// used again. Texts are limited to 255 octets, the most an option can carry.
type arena struct {
	class [classes]class
}

// text finds a text: class in the lowest 5 bits, slot above. 0 is the empty text.
type text uint32

const (
	classes   = 17
	classStep = 16 // octets: class k holds texts of up to 16*k-1, with their length in front
	slots     = 1024
)

type class struct {
	pages [][]byte
	free  []uint32
	n     uint32
}

func (a *arena) put(s string) text {
	if s == "" {
		return 0
	}
	k := (len(s) + classStep) / classStep // one octet of length
	c := &a.class[k]
	size := k * classStep
	var slot uint32
	if n := len(c.free); n > 0 {
		slot, c.free = c.free[n-1], c.free[:n-1]
	} else {
		slot = c.n
		if slot%slots == 0 {
			c.pages = append(c.pages, make([]byte, slots*size))
		}
		c.n++
	}
	b := c.pages[slot/slots][int(slot%slots)*size:]
	b[0] = byte(len(s))
	copy(b[1:], s)
	return text(slot<<5 | uint32(k))
}

func (a *arena) get(t text) []byte {
	if t == 0 {
		return nil
	}
	k, slot := t&31, uint32(t>>5)
	size := int(k) * classStep
	b := a.class[k].pages[slot/slots][int(slot%slots)*size:]
	n := 1 + int(b[0])
	return b[1:n:n]
}

func (a *arena) drop(t text) {
	if t == 0 {
		return
	}
	c := &a.class[t&31]
	c.free = append(c.free, uint32(t>>5))
}
