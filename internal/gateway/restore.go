package gateway

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"kedge/internal/access"
	"kedge/internal/core"
	"kedge/internal/fields"
	"kedge/internal/heartbeat"
	"kedge/wire"
	"kedge/wire/mobility"
)

// before is what the store has of an earlier run, until all of it is read.
type before struct {
	known   bool // the restart counter was there
	kept    bool // that run kept its sessions in the store
	restart uint32
	run     uint32
	list    []*record
	damaged int // records of sessions that could not be read
}

// restored takes what an earlier run, or another gateway that shares the store, left: the restart counter, sessions, and the
// IPv4 home addresses of hosts.
func (m *Machine) restored(ev *core.Restored) {
	key, s := string(ev.Key), &m.before
	switch {
	case ev.Last:
		m.started()
	case key == restartKey && len(ev.Val) == 5 && ev.Val[0] == recordVersion:
		s.known, s.restart = true, binary.BigEndian.Uint32(ev.Val[1:])
		s.run = s.restart
	case key == restartKey && len(ev.Val) == 9 && ev.Val[0] == restartVersion:
		s.known, s.kept = true, true
		s.restart, s.run = binary.BigEndian.Uint32(ev.Val[1:]), binary.BigEndian.Uint32(ev.Val[5:])
	case strings.HasPrefix(key, sessionPrefix):
		r, err := decode(ev.Key, ev.Val)
		if err != nil {
			s.damaged++
			m.badRecord(ev.Key, err)
			return
		}
		s.list = append(s.list, r)
	case strings.HasPrefix(key, learnedPrefix) && len(ev.Val) == 6 && ev.Val[0] == recordVersion:
		r := fields.New(ev.Val[1:])
		a := r.Addr(4)
		if p := prefix4(a, r.U8()); usableIPv4(p) {
			m.known.set(strings.TrimPrefix(key, learnedPrefix), p)
		}
	case key == restartKey || strings.HasPrefix(key, learnedPrefix):
		m.count(wire.Malformed)
	}
}

// badRecord deletes a record that cannot be brought back, and tells.
func (m *Machine) badRecord(key []byte, err error) {
	m.count(wire.StoreFailed)
	m.emit(core.Emit{Name: "failed", Why: string(wire.StoreFailed), Fields: map[string]any{"err": fmt.Sprintf("record %x: %v", key, err)}})
	m.out = append(m.out, core.Persist{Key: slices.Clone(key), Lazy: true})
}

// started begins with what is known. The restart counter grows when sessions were lost, and only then; the anchors hear of
// that at once (RFC 5847 3.2).
func (m *Machine) started() {
	s := &m.before
	m.distinct()
	lost := s.known && (!s.kept || s.damaged > 0)
	if s.known {
		m.restart = s.restart
		m.run = max(m.run, s.run+1)
	}
	if lost {
		m.restart++
	}
	for _, r := range s.list {
		m.run = max(m.run, uint32(r.id>>32)+1)
	}
	val := binary.BigEndian.AppendUint32([]byte{restartVersion}, m.restart)
	// What is announced must be durable; a store that cannot be written is no reason to forward nothing.
	m.out = append(m.out, core.Persist{Key: []byte(restartKey), Val: binary.BigEndian.AppendUint32(val, m.run), Lazy: !lost, Prompt: !lost})
	m.monitor = heartbeat.New(m.cfg.Heartbeat, m.restart, m.rand)
	m.readmit(s.list)
	m.before = before{}
	if !lost || m.cfg.HeartbeatOff {
		return
	}
	for _, a := range m.anchors {
		m.out = append(m.out, core.Send{Path: m.path(a), Body: m.monitor.Announcement()})
	}
}

// distinct sorts the records by age, and leaves those out that claim the host or the addresses of an older one.
func (m *Machine) distinct() {
	s := &m.before
	slices.SortFunc(s.list, func(a, b *record) int { return cmp.Compare(a.id, b.id) })
	macs, keys := map[core.MAC]bool{}, map[netip.Prefix]bool{}
	s.list = slices.DeleteFunc(s.list, func(r *record) bool {
		own := (&entry{ipv4: r.ipv4, prefixes: r.prefixes}).keys()
		if macs[r.mac] || slices.ContainsFunc(own, func(k netip.Prefix) bool { return keys[k] }) {
			s.damaged++
			m.badRecord(sessionKey(r.id), fmt.Errorf("another session has the host or the addresses of %s", r.mn))
			return true
		}
		macs[r.mac] = true
		for _, k := range own {
			keys[k] = true
		}
		return false
	})
}

// readmit brings sessions back. They forward at once; whether their hosts are still there, and whether
// the anchor still has them, shows soon: all are refreshed, spread so that a big gateway does not do it in one burst.
func (m *Machine) readmit(all []*record) {
	over := max(m.cfg.Timers.Reregister, time.Duration(len(all))*time.Millisecond)
	n := 0
	for _, r := range all {
		if m.readmitOne(r, over) {
			n++
		}
	}
	if len(all) > 0 {
		m.emit(core.Emit{Name: "store", From: "restored", To: "ready", Why: "restored", Fields: map[string]any{
			"detail": fmt.Sprintf("%d of %d sessions, restart counter %d", n, len(all), m.restart)}})
	}
}

// readmitOne brings one session back. False: it is over.
func (m *Machine) readmitOne(r *record, over time.Duration) bool {
	a := m.anchorAt(r.anchor)
	left := min(r.expires.Sub(m.now.Wall), r.lifetime) // longer: the clock was set back
	switch {
	case left <= 0:
		m.dropped(r, "binding expired while the gateway was down")
		return false
	case a == nil:
		m.dropped(r, "its anchor "+r.anchor.String()+" is not in the config any more")
		return false
	}
	l := m.linkNamed(r.link)
	why := ""
	if l == nil {
		l, why = m.formerLink(r), "its access link is not in the config any more"
	}
	e := m.bringBack(r, l, a, left)
	switch {
	case why != "":
	case r.flags&fLeaving != 0:
		why = "left before the restart"
	default:
		why = m.outdated(e, r)
	}
	if why != "" {
		m.detach(e, why)
		return false
	}
	m.carryOut(l, l.home.Restore(m.now, e.mac, access.Grant{Prefixes: slices.Clone(e.prefixes), IPv4: e.ipv4, Router4: e.router4, Valid: left}, r.linkLocal, nil))
	m.forward(e)
	m.arm(e, tRefresh, m.now.Boot+m.spread(over))
	e.refreshAt = e.at[tRefresh]
	m.arm(e, tExpire, e.expires)
	m.past(e.mn, "restored", "", "")
	return true
}

// bringBack makes the entry of a session, quietly: a restart tells how many there are, not each.
func (m *Machine) bringBack(r *record, l *link, a *anchor, left time.Duration) *entry {
	e := m.newEntry(l, r.mac, r.mn)
	m.sessions--
	e.id, e.named, e.anchor = r.id, r.flags&fNamed != 0, a
	e.stored = r.encode()
	m.touch(e)
	e.prefixes, e.ipv4, e.router4, e.dialect = r.prefixes, r.ipv4, r.router4, r.dialect
	e.lifetime, e.expires = r.lifetime, m.now.Boot+left
	e.seq, e.stamp, e.accepted, e.linkLocal = r.seq+seqMargin, r.stamp, r.accepted, r.linkLocal
	e.wants, e.left, e.lost = r.wants, r.flags&fReleased != 0, r.flags&fLost != 0
	e.noHint = [2]bool{r.flags&fAny4 != 0, r.flags&fAny6 != 0}
	e.trigger, e.by = m.now.Boot, "store"
	e.heard = m.now.Boot - m.cfg.Timers.NUDReachable // it may have left meanwhile
	switch {
	case r.careOf != m.cfg.Address:
		e.handoff = mobility.HandoffGateways // for the anchor this is another gateway
	case r.att != l.Technology:
		e.handoff = mobility.HandoffInterfaces
	}
	if a.Dialect == Auto && r.ipv4.IsValid() {
		a.dialect, a.proven = r.dialect, true
	}
	m.states[e.state]--
	e.state = active
	m.states[active]++
	m.serve(a, true)
	return e
}

// dropped tells of a session that ends without a word to its anchor.
func (m *Machine) dropped(r *record, why string) {
	m.emit(core.Emit{Name: "session", ID: r.id, From: active.String(), To: gone.String(), Why: why, Fields: map[string]any{
		"sub": r.mn, "mac": r.mac.String(), "if": r.link}})
	m.past(r.mn, "active -> gone", "", why)
	m.out = append(m.out, core.Persist{Key: sessionKey(r.id), Lazy: true})
}

// formerLink stands for an access link that is not in the config any more, while a session of it is deregistered.
func (m *Machine) formerLink(r *record) *link {
	cfg := access.LinkConfig{Name: r.link}
	return &link{Access: Access{Link: cfg, Technology: r.att}, home: access.NewHomeLink(cfg, m.rand), down: true, downAt: never, looked: never}
}

// outdated says why a session is not what the config of now would have made; the host attaches anew then.
func (m *Machine) outdated(e *entry, r *record) string {
	named, ok := e.link.Identity.of(e.mac)
	want := e.anchor
	for _, a := range m.anchors {
		if a.Name == e.profile.Anchor || e.profile.Anchor == "" && a == m.anchors[0] {
			want = a
		}
	}
	v4, hnp := e.profile.IPv4, e.profile.Prefixes
	other := v4.IsValid() && e.ipv4.IsValid() && !e.noHint[family(access.V4)] && !asked4(v4, e.ipv4.Addr()) ||
		len(hnp) > 0 && len(e.prefixes) > 0 && !e.noHint[family(access.V6)] && !sharesPrefix(e, hnp)
	// Where a host has two interfaces, one of them has what is configured, and the other something else.
	other = other && !slices.ContainsFunc(m.before.list, func(x *record) bool { return x.mn == r.mn && x.id != r.id })
	switch {
	case !e.named && (!ok || named != e.mn):
		return "the config names the host differently"
	case want != e.anchor:
		return "the config gives the host to another anchor"
	case e.has()&^e.profile.Families != 0:
		return "the config does not allow one of its address families any more"
	case other:
		return "the config gives the host other addresses"
	case e.link.hosts > m.cfg.Limits.HostsPerAccess || len(m.hosts) > m.cfg.Limits.Hosts:
		return "the config allows fewer hosts"
	}
	return ""
}
