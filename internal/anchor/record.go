package anchor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"kedge/internal/binding"
	"kedge/internal/core"
	"kedge/internal/fields"
)

// recordVersion is the first octet of every record. Records are big-endian and have one encoding for one content.
const recordVersion = 1

// Keys of the store. A session's ends in its id.
const (
	metaKey       = "meta"
	sessionPrefix = "s/"
	hostPrefix    = "h/" // host registrations
)

func sessionKey(id core.ID) []byte { return recordKey(sessionPrefix, id) }

func recordKey(prefix string, id core.ID) []byte {
	return binary.BigEndian.AppendUint64([]byte(prefix), uint64(id))
}

// record is a session as stored.
type record struct {
	entry     binding.Entry // without homes, Expires, State and Gateway
	state     binding.State
	expires   time.Time
	gateway   netip.Addr // signals from there
	homes     binding.Homes
	node      string
	linkLayer []byte
}

// encode writes the record of a session as it is.
func (m *Machine) encode(i binding.Index) []byte {
	e, h := m.cache.At(i), m.cache.Homes(i)
	node, ll := m.cache.Node(i), m.cache.LinkLayer(i)
	gw := netip.IPv6Unspecified()
	if e.Gateway != 0 {
		gw = m.gateways.at(e.Gateway).addr
	}
	b := make([]byte, 0, 128+len(node)+len(ll)+17*len(h.Prefixes))
	b = append(b, recordVersion, byte(e.State), e.Dialect, e.ATT, e.Handoff)
	b = binary.BigEndian.AppendUint64(b, uint64(m.now.Wall.Add(e.Expires-m.now.Boot).UnixNano()))
	b = binary.BigEndian.AppendUint64(b, uint64(e.Since))
	b = binary.BigEndian.AppendUint64(b, e.Timestamp)
	b = binary.BigEndian.AppendUint16(b, e.Sequence)
	b = binary.BigEndian.AppendUint16(b, e.Lifetime)
	b = binary.BigEndian.AppendUint32(b, uint32(e.Domain))
	g := gw.As16()
	for _, a := range [][16]byte{e.CareOf, e.Anchor, e.LinkLocal, g} {
		b = append(b, a[:]...)
	}
	b = append(b, e.Router4[:]...)
	v4, bits := [4]byte{}, byte(0xff)
	if h.V4.IsValid() {
		v4, bits = h.V4.Addr().As4(), byte(h.V4.Bits())
	}
	b = append(append(b, v4[:]...), bits, byte(len(h.Prefixes)))
	for _, p := range h.Prefixes {
		a := p.Addr().As16()
		b = append(append(b, a[:]...), byte(p.Bits()))
	}
	b = append(append(b, byte(len(node))), node...)
	return append(append(b, byte(len(ll))), ll...)
}

var errRecord = errors.New("record is damaged")

// decode is the reverse of encode. The record's slices are its own.
func decode(b []byte) (r record, err error) {
	if len(b) == 0 || b[0] != recordVersion {
		return r, fmt.Errorf("record of a version that this program does not know: %x", b[:min(len(b), 1)])
	}
	d := fields.New(b[1:])
	r.state = binding.State(d.U8())
	r.entry.Dialect, r.entry.ATT, r.entry.Handoff = d.U8(), d.U8(), d.U8()
	r.expires = time.Unix(0, int64(d.U64()))
	r.entry.Since, r.entry.Timestamp = int64(d.U64()), d.U64()
	r.entry.Sequence, r.entry.Lifetime = d.U16(), d.U16()
	r.entry.Domain = core.Domain(d.U32())
	r.entry.CareOf, r.entry.Anchor, r.entry.LinkLocal = [16]byte(d.Take(16)), [16]byte(d.Take(16)), [16]byte(d.Take(16))
	r.gateway = addr([16]byte(d.Take(16)))
	r.entry.Router4 = [4]byte(d.Take(4))
	v4 := netip.AddrFrom4([4]byte(d.Take(4)))
	if bits := d.U8(); bits <= 32 {
		r.homes.V4 = netip.PrefixFrom(v4, int(bits))
	}
	for n := d.U8(); n > 0 && !d.Short(); n-- {
		a := netip.AddrFrom16([16]byte(d.Take(16)))
		r.homes.Prefixes = append(r.homes.Prefixes, netip.PrefixFrom(a, int(d.U8())))
	}
	r.node = d.Text()
	if n := int(d.U8()); n > 0 {
		r.linkLayer = append(r.linkLayer, d.Take(n)...)
	}
	switch {
	case !d.Whole(), r.node == "", r.homes.Empty(), len(r.homes.Prefixes) > binding.MaxPrefixes:
		return record{}, errRecord
	case r.state != binding.Active && r.state != binding.Deprecated:
		return record{}, errRecord
	}
	for _, p := range r.homes.Prefixes {
		if !p.IsValid() || p.Addr().Is4In6() {
			return record{}, errRecord
		}
	}
	r.entry.Proxy = true
	return r, nil
}
