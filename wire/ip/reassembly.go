package ip

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"kedge/wire"
)

// Limits of a Reassembler: what strangers can make it keep.
type Limits struct {
	Packets int           // packets in reassembly at once
	Octets  int           // octets of fragments kept, over all packets
	Parts   int           // fragments of one packet
	Timeout time.Duration // from the first fragment of a packet (RFC 8200 4.5: 60 s)
}

// DefaultLimits hold a few hundred packets. 128 parts carry 64 KiB over any IPv6 link.
var DefaultLimits = Limits{Packets: 1024, Octets: 4 << 20, Parts: 128, Timeout: 60 * time.Second}

// Reassembler puts fragments of both families together. One goroutine owns it. Overlapping fragments discard the whole packet,
// also its fragments still to come (RFC 5722 4, RFC 8200 4.5); exact repetitions are harmless. When a limit is reached the
// oldest packet in reassembly goes.
type Reassembler struct {
	limits         Limits
	jobs           map[fragKey]*job
	oldest, newest *job // list in order of arrival
	octets         int
	evicted        int // since Evicted was asked
}

type fragKey struct {
	src, dst netip.Addr
	id       uint32
	scope    uint32
	proto    uint8
}

type job struct {
	key          fragKey
	older, newer *job
	born         time.Duration
	parts        []part
	head         []byte // headers of the first fragment, as they go before the whole
	end          int    // octets of the whole payload, -1 unknown
	octets       int
	ecn          uint8 // bit set of codepoints seen
	dead         bool  // refused: its fragments still to come are discarded
}

type part struct {
	off  int
	data []byte
}

var (
	errFragLen  = &wire.Error{Msg: "fragment", Field: "Payload Length", Off: 4, Reason: wire.BadLength, RFC: "RFC 8200 4.5"}
	errFragFar  = &wire.Error{Msg: "fragment", Field: "Fragment Offset", Reason: wire.TooLong, RFC: "RFC 8200 4.5"}
	errFragHead = &wire.Error{Msg: "first fragment", Field: "header chain", Reason: wire.Truncated, RFC: "RFC 8200 4.5"}
	errOverlap  = &wire.Error{Msg: "fragment", Field: "Fragment Offset", Reason: wire.OverlapFragment, RFC: "RFC 5722 4"}
	errParts    = &wire.Error{Msg: "fragment", Reason: wire.ReassemblyLimit, RFC: "RFC 8200 4.5"}
	errFragECN  = &wire.Error{Msg: "fragment", Field: "ECN", Reason: wire.ECNDrop, RFC: "RFC 3168 5.3"}
)

// NewReassembler makes one; fields of l that are 0 take the default.
func NewReassembler(l Limits) *Reassembler {
	if l.Packets <= 0 {
		l.Packets = DefaultLimits.Packets
	}
	if l.Octets <= 0 {
		l.Octets = DefaultLimits.Octets
	}
	if l.Parts <= 0 {
		l.Parts = DefaultLimits.Parts
	}
	if l.Timeout <= 0 {
		l.Timeout = DefaultLimits.Timeout
	}
	return &Reassembler{limits: l, jobs: map[fragKey]*job{}}
}

// Add takes one packet. Not a fragment: it comes back as it is. The last missing fragment: the whole packet comes back in a
// buffer of its own. Else nil: kept, or refused with the reason. pkt is not kept.
func (r *Reassembler) Add(now time.Duration, pkt []byte) ([]byte, error) { return r.AddIn(now, 0, pkt) }

// AddIn is Add for packets of one scope: fragments of another, such as those that come in another tunnel, are other packets',
// whatever their addresses are.
func (r *Reassembler) AddIn(now time.Duration, scope uint32, pkt []byte) ([]byte, error) {
	r.Expire(now)
	h, err := Parse(pkt)
	if err != nil {
		return nil, err
	}
	pkt = pkt[:h.Len]
	u, err := FindUpper(pkt, &h)
	if !u.Fragment {
		return pkt, err
	}
	head, data := h.HdrLen, pkt[h.HdrLen:]
	key := fragKey{src: h.Src, dst: h.Dst, id: u.ID, scope: scope, proto: h.Proto}
	if u.FragHdr != 0 {
		head, data = u.FragHdr, pkt[u.FragHdr+8:]
		key.proto = 0 // RFC 8200: source, destination and Identification
	}
	if err != nil && u.FragOff == 0 {
		err = errFragHead // the header chain must be in the first fragment
	}
	return r.add(now, key, pkt, head, data, &h, &u, err)
}

func (r *Reassembler) add(now time.Duration, key fragKey, pkt []byte, head int, data []byte, h *Header, u *Upper, bad error) ([]byte, error) {
	j := r.jobs[key]
	switch {
	case bad != nil:
	case len(data) == 0 || u.More && len(data)%8 != 0:
		bad = errFragLen
	case head+u.FragOff+len(data) > MaxPacket+IPv6Len:
		bad = errFragFar
	}
	if j == nil {
		if bad != nil {
			return nil, bad
		}
		j = r.begin(now, key)
	}
	if j.dead {
		return nil, errOverlap
	}
	if bad != nil {
		r.kill(j)
		return nil, bad
	}
	fresh, err := j.insert(u, data, r.limits.Parts)
	if err != nil {
		r.kill(j)
		return nil, err
	}
	if !fresh {
		return nil, nil
	}
	j.octets += len(data)
	r.octets += len(data)
	j.ecn |= 1 << (h.TOS & 3)
	if u.FragOff == 0 {
		j.head = append([]byte(nil), pkt[:head]...)
		if u.FragHdr != 0 {
			// The Fragment header goes: whoever named it now names what it named.
			j.head[u.fragName] = pkt[u.FragHdr]
		}
	}
	if whole, err := j.whole(h.Is4()); whole != nil || err != nil {
		r.drop(j)
		return whole, err
	}
	for r.octets > r.limits.Octets {
		r.evict()
	}
	return nil, nil
}

// evict gives up the oldest packet, because a limit is reached.
func (r *Reassembler) evict() {
	if !r.oldest.dead {
		r.evicted++
	}
	r.drop(r.oldest)
}

func (r *Reassembler) begin(now time.Duration, key fragKey) *job {
	for len(r.jobs) >= r.limits.Packets && r.oldest != nil {
		r.evict()
	}
	j := &job{key: key, born: now, end: -1, older: r.newest}
	if r.newest != nil {
		r.newest.newer = j
	} else {
		r.oldest = j
	}
	r.newest, r.jobs[key] = j, j
	return j
}

// insert adds a part in order; false for a repetition.
func (j *job) insert(u *Upper, data []byte, limit int) (bool, error) {
	off, end := u.FragOff, u.FragOff+len(data)
	if j.end >= 0 && (end > j.end || !u.More && end != j.end) {
		return false, errOverlap
	}
	i, found := slices.BinarySearchFunc(j.parts, off, func(p part, o int) int { return p.off - o })
	if found && bytes.Equal(j.parts[i].data, data) && u.More == (j.end != end) {
		return false, nil
	}
	if found || i > 0 && j.parts[i-1].off+len(j.parts[i-1].data) > off || i < len(j.parts) && j.parts[i].off < end {
		return false, errOverlap
	}
	if !u.More {
		if i != len(j.parts) {
			return false, errOverlap // something lies behind the last one
		}
		j.end = end
	}
	if len(j.parts) >= limit {
		return false, errParts
	}
	j.parts = slices.Insert(j.parts, i, part{off, append([]byte(nil), data...)})
	return true, nil
}

func (j *job) whole(is4 bool) ([]byte, error) {
	if j.end < 0 || j.octets != j.end || j.head == nil {
		return nil, nil
	}
	n := len(j.head) + j.end
	if is4 && n > MaxPacket || !is4 && n-IPv6Len > MaxPacket {
		return nil, errFragFar
	}
	b := append(make([]byte, 0, n), j.head...)
	for _, p := range j.parts {
		b = append(b, p.data...)
	}
	tos, err := j.tos(b)
	if err != nil {
		return nil, err
	}
	if !is4 {
		binary.BigEndian.PutUint16(b[4:], uint16(n-IPv6Len))
		SetTOS(b, tos)
		return b, nil
	}
	binary.BigEndian.PutUint16(b[2:], uint16(n))
	b[1], b[6], b[7], b[10], b[11] = tos, 0, 0, 0, 0
	binary.BigEndian.PutUint16(b[10:], Checksum(b[:len(j.head)]))
	return b, nil
}

// tos: congestion seen by one fragment was seen by the packet; one fragment not capable of ECN beside a marked one is an error
// (RFC 3168 5.3).
func (j *job) tos(b []byte) (uint8, error) {
	tos := b[1]
	if b[0]>>4 == 6 {
		tos = b[0]<<4 | b[1]>>4
	}
	switch ce, not := j.ecn&(1<<CE) != 0, j.ecn&(1<<NotECT) != 0; {
	case ce && not:
		return 0, errFragECN
	case ce:
		return tos | CE, nil
	}
	return tos, nil
}

// kill keeps the key but frees what it held, so that later fragments of the packet are refused as well.
func (r *Reassembler) kill(j *job) {
	r.octets -= j.octets
	j.parts, j.head, j.octets, j.dead = nil, nil, 0, true
}

func (r *Reassembler) drop(j *job) {
	r.octets -= j.octets
	delete(r.jobs, j.key)
	if j.older != nil {
		j.older.newer = j.newer
	} else {
		r.oldest = j.newer
	}
	if j.newer != nil {
		j.newer.older = j.older
	} else {
		r.newest = j.older
	}
}

// Expire discards packets older than the timeout and returns how many it gave up.
func (r *Reassembler) Expire(now time.Duration) (gone int) {
	for r.oldest != nil && now-r.oldest.born >= r.limits.Timeout {
		if !r.oldest.dead {
			gone++
		}
		r.drop(r.oldest)
	}
	return gone
}

// Evicted returns how many packets were given up since it was last asked because a limit was reached.
func (r *Reassembler) Evicted() int {
	n := r.evicted
	r.evicted = 0
	return n
}

// Held returns the packets and octets in reassembly.
func (r *Reassembler) Held() (packets, octets int) { return len(r.jobs), r.octets }
