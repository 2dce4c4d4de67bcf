package gateway

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"time"

	"kedge/internal/access"
	"kedge/internal/core"
	"kedge/internal/fields"
	"kedge/wire/mobility"
)

// Keys and versions of the store. A session's key ends in its id. Records are big-endian and have one encoding for one content.
const (
	restartKey    = "gateway/restart"
	learnedPrefix = "gateway/learned/"
	sessionPrefix = "gateway/session/"

	recordVersion = 1
	// restartVersion 2 says that the sessions are in the store as well; the gateways that wrote version 1 kept none.
	restartVersion = 2
)

// seqMargin is how far a stored sequence number is advanced at a restart: more than one session can use before a refresh
// that is written behind is in the store (MAX_UPDATE_RATE a second, and a second).
const seqMargin = 64

// record is a session as stored: its entry of the Binding Update List, and what its access link knows of the host.
type record struct {
	id core.ID

	// What every refresh changes. It is written behind.
	expires   time.Time
	stamp     uint64 // last Timestamp sent
	accepted  uint64 // Timestamp of the registration
	seq       uint16
	lifetime  time.Duration
	linkLocal netip.Addr // of the host; invalid = not known

	flags   uint8
	wants   access.Families
	dialect Dialect
	att     uint8
	mac     core.MAC
	anchor  netip.Addr
	careOf  netip.Addr // Proxy-CoA
	ipv4    netip.Prefix
	router4 netip.Addr

	prefixes []netip.Prefix
	link     string
	mn       string
}

// Flags of a record.
const (
	fLeaving  = 1 << iota // the host left: a deregistration is out
	fReleased             // DHCPRELEASE: no IPv4 until DHCP asks again
	fNamed                // by the API
	fLost                 // the anchor restarted and has not answered since
	fAny4                 // the anchor refused the configured IPv4 home address
	fAny6                 // and the configured prefixes
	fFlags    = 1<<iota - 1
)

// softEnd is where the part that refreshes change ends.
const softEnd = 1 + 8 + 8 + 8 + 2 + 2 + 16

func sessionKey(id core.ID) []byte {
	return binary.BigEndian.AppendUint64([]byte(sessionPrefix), uint64(id))
}

// touch says that the record of a session may be out of date.
func (m *Machine) touch(e *entry) {
	if !e.changed {
		e.changed = true
		m.changed = append(m.changed, e)
	}
}

// record writes what the event changed. Nothing waits for it: a session that is lost with the last moments before a crash
// is registered again by the host's next sign of life, one too many is found by the probe of every restart.
func (m *Machine) record() {
	for i, e := range m.changed {
		e.changed, m.changed[i] = false, nil
		if !e.state.bound() && (e.state != deregistering || e.stored == nil) || len(e.keys()) == 0 {
			if e.stored != nil {
				e.stored = nil
				m.out = append(m.out, core.Persist{Key: sessionKey(e.id), Lazy: true, Prompt: true})
			}
			continue
		}
		val := m.recordOf(e).encode()
		if bytes.Equal(val, e.stored) {
			continue
		}
		refreshed := e.stored != nil && bytes.Equal(val[softEnd:], e.stored[softEnd:])
		e.stored = val
		m.out = append(m.out, core.Persist{Key: sessionKey(e.id), Val: val, Lazy: true, Prompt: !refreshed})
	}
	m.changed = m.changed[:0]
}

func (m *Machine) recordOf(e *entry) *record {
	r := &record{
		id: e.id, expires: m.now.Wall.Add(e.expires - m.now.Boot), stamp: e.stamp, accepted: e.accepted, seq: e.seq, lifetime: e.lifetime, linkLocal: e.linkLocal,
		wants: e.wants, dialect: e.dialect, att: e.link.Technology, mac: e.mac, anchor: e.anchor.Address, careOf: m.cfg.Address,
		ipv4: e.ipv4, router4: e.router4, prefixes: e.prefixes, link: e.link.Link.Name, mn: e.mn,
	}
	for _, f := range [...]struct {
		on   bool
		flag uint8
	}{{e.state == deregistering, fLeaving}, {e.left, fReleased}, {e.named, fNamed}, {e.lost, fLost}, {e.noHint[0], fAny4}, {e.noHint[1], fAny6}} {
		if f.on {
			r.flags |= f.flag
		}
	}
	return r
}

func (r *record) encode() []byte {
	b := make([]byte, 0, softEnd+64+17*len(r.prefixes)+len(r.link)+len(r.mn))
	b = append(b, recordVersion)
	b = binary.BigEndian.AppendUint64(b, uint64(r.expires.UnixNano()))
	b = binary.BigEndian.AppendUint64(b, r.stamp)
	b = binary.BigEndian.AppendUint64(b, r.accepted)
	b = binary.BigEndian.AppendUint16(b, r.seq)
	b = binary.BigEndian.AppendUint16(b, uint16(r.lifetime/mobility.LifetimeUnit))
	b = appendAddr(b, r.linkLocal, netip.IPv6Unspecified())
	b = append(b, r.flags, byte(r.wants), dialectNumber(r.dialect), r.att)
	b = append(b, r.mac[:]...)
	b = appendAddr(b, r.anchor, netip.IPv6Unspecified())
	b = appendAddr(b, r.careOf, netip.IPv6Unspecified())
	b = append(appendAddr(b, r.ipv4.Addr(), netip.IPv4Unspecified()), byte(max(r.ipv4.Bits(), 0)))
	b = appendAddr(b, r.router4, netip.IPv4Unspecified())
	b = append(b, byte(len(r.prefixes)))
	for _, p := range r.prefixes {
		b = append(appendAddr(b, p.Addr(), netip.IPv6Unspecified()), byte(p.Bits()))
	}
	b = append(append(b, byte(len(r.link))), r.link...)
	return append(append(b, byte(len(r.mn))), r.mn...)
}

// appendAddr writes an address of the family of none, which stands for one that is not valid.
func appendAddr(b []byte, a, none netip.Addr) []byte {
	if !a.IsValid() {
		a = none
	}
	return append(b, a.AsSlice()...)
}

func dialectNumber(d Dialect) byte {
	if d == Draft02 {
		return 1
	}
	return 0
}

var (
	errRecord  = errors.New("record is damaged")
	errVersion = errors.New("record of a version that this program does not know")
)

// decode is the reverse of encode. It takes what encode can have written of a session that can have been, and nothing else.
func decode(key, b []byte) (*record, error) {
	if len(key) != len(sessionPrefix)+8 {
		return nil, errRecord
	}
	if len(b) == 0 || b[0] != recordVersion {
		return nil, errVersion
	}
	d := fields.New(b[1:])
	r := &record{id: core.ID(binary.BigEndian.Uint64(key[len(sessionPrefix):]))}
	r.expires = time.Unix(0, int64(d.U64()))
	r.stamp, r.accepted = d.U64(), d.U64()
	r.seq, r.lifetime = d.U16(), time.Duration(d.U16())*mobility.LifetimeUnit
	r.linkLocal = d.Addr(16)
	r.flags, r.wants = d.U8(), access.Families(d.U8())
	dialect := d.U8()
	r.dialect = [...]Dialect{RFC5844, Draft02}[dialect&1]
	r.att, r.mac = d.U8(), core.MAC(d.Take(6))
	r.anchor, r.careOf = d.Addr(16), d.Addr(16)
	v4 := d.Addr(4)
	bits := d.U8()
	if v4.IsValid() {
		r.ipv4 = netip.PrefixFrom(v4, int(bits))
	}
	r.router4 = d.Addr(4)
	for n := d.U8(); n > 0 && !d.Short(); n-- {
		a := netip.AddrFrom16([16]byte(d.Take(16)))
		r.prefixes = append(r.prefixes, netip.PrefixFrom(a, int(d.U8())))
	}
	r.link = d.Text()
	r.mn = d.Text()
	switch {
	case !d.Whole(), !bytes.Equal(r.encode(), b):
		return nil, errRecord
	case r.id == 0, r.mn == "", len(r.mn) > maxIdentifier, r.link == "", r.lifetime == 0, r.flags&^fFlags != 0, r.wants&^(access.V4|access.V6) != 0:
		return nil, errRecord
	case r.mac == core.MAC{}, r.mac[0]&1 != 0, !r.anchor.IsValid(), !r.careOf.IsValid(), r.linkLocal.IsValid() && !r.linkLocal.IsLinkLocalUnicast():
		return nil, errRecord
	case r.ipv4.IsValid() != v4.IsValid(), v4.IsValid() && !usableIPv4(r.ipv4), !v4.IsValid() && len(r.prefixes) == 0:
		return nil, errRecord
	}
	for _, p := range r.prefixes {
		if !usablePrefix(p) {
			return nil, errRecord
		}
	}
	return r, nil
}
