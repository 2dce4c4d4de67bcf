package optimize

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"time"

	"kedge/internal/core"
	"kedge/wire"
	"kedge/wire/ip"
)

// Key is that of the record in the store.
const Key = "node-correspondents"

const (
	recordVersion = 1
	// seqMargin is how far sequence numbers are advanced at a restart: more than can be sent before a lazy record is written.
	seqMargin = 64
)

// rec is an entry as stored: what correspondents hold outlives the process, and they send accordingly. Tokens are secrets and stay
// out: they cost one round trip.
type rec struct {
	Peer     netip.Addr    `json:"peer"`
	CareOf   netip.Addr    `json:"care_of,omitzero"` // acknowledged
	Wire     netip.Addr    `json:"wire"`             // where it sends to
	Session  core.ID       `json:"session"`
	Seq      uint16        `json:"seq"`
	Lifetime time.Duration `json:"lifetime_ns,omitzero"`
	Expires  time.Time     `json:"expires,omitzero"`
	Lives    time.Time     `json:"lives"`
}

type record struct {
	Home    netip.Addr `json:"home"`
	Entries []rec      `json:"entries"`
}

// record writes the entries whose correspondent may hold a binding behind, when they have changed.
func (m *Machine) record() {
	r := record{Home: m.place.Home}
	for _, e := range m.list {
		if m.now.Boot >= e.lives || !e.told.own.IsValid() {
			continue
		}
		x := rec{Peer: e.peer, Wire: e.told.own, Session: e.id, Seq: e.seq, Lives: m.wall(m.now, e.lives)}
		if e.bind.ok() {
			x.CareOf, x.Lifetime, x.Expires = e.bind.careOf, e.bind.lifetime, m.wall(m.now, e.bind.expires)
		}
		r.Entries = append(r.Entries, x)
	}
	if len(r.Entries) == 0 && m.stored == nil {
		return
	}
	val, err := json.Marshal(&r)
	if err != nil {
		m.emit(core.Emit{Name: "failed", Why: "record", Fields: map[string]any{"err": err.Error()}})
		return
	}
	val = append([]byte{recordVersion}, val...)
	if bytes.Equal(val, m.stored) {
		return
	}
	m.stored = val
	m.out = append(m.out, core.Persist{Key: []byte(Key), Val: val, Lazy: true})
}

// Restore takes the record of an earlier run, before anything else: home is the home address. What does not fit is left out; an error
// is one of the record as a whole. Start tells the data plane.
func (m *Machine) Restore(now core.Now, home netip.Addr, val []byte) error {
	m.now = now
	if len(val) == 0 || val[0] != recordVersion {
		return wire.UnknownType
	}
	var r record
	if err := json.Unmarshal(val[1:], &r); err != nil {
		return err
	}
	if r.Home != home {
		return nil
	}
	m.place.Home = home
	for _, x := range r.Entries {
		lives, left := x.Lives.Sub(now.Wall), x.Expires.Sub(now.Wall)
		if len(m.list) == m.cfg.Limit || !ip.Routable(x.Peer) || !ip.Routable(x.Wire) || x.Session == 0 || lives <= 0 || lives > MaxBindingLifetime+slack ||
			m.find(x.Peer) != nil || m.cfg.use(x.Peer) == Never {
			continue
		}
		e := m.enter(x.Peer, x.Session)
		e.seq, e.lives = x.Seq+seqMargin, now.Boot+lives
		e.always = m.cfg.use(x.Peer) == Always
		e.may = []netip.Addr{x.Wire}
		if x.CareOf == x.Wire && left > 0 && left <= MaxBindingLifetime && x.Lifetime > 0 && x.Lifetime <= MaxBindingLifetime {
			// Renewed at once: it was not heard of while the process was away.
			e.bind = binding{careOf: x.CareOf, seq: e.seq, lifetime: x.Lifetime, expires: now.Boot + left, refreshAt: now.Boot}
		}
	}
	return nil
}

// Start begins when the store has told everything: what correspondents send is let in again.
func (m *Machine) Start(now core.Now, out []core.Effect) []core.Effect {
	m.begin(now, out)
	m.all()
	return m.end()
}
