package ebpf

import (
	"encoding/binary"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/internal/dataplane/conformance"
	"kedge/internal/dataplane/user"
)

// many are n dual-stack sessions: hosts, each behind an address of its own if apart, else all at one gateway.
func many(n int, apart bool) (sessions, keys []core.Op) {
	six := netip.MustParseAddr("2001:db9::").As16()
	four := netip.MustParseAddr("10.0.0.0").As4()
	coa := netip.MustParseAddr("2001:db8:ffff::").As16()
	for i := range n {
		id := core.ID(i + 1)
		to := conformance.CoA1
		if apart {
			binary.BigEndian.PutUint32(coa[12:], uint32(i+1))
			to = netip.AddrFrom16(coa)
		}
		binary.BigEndian.PutUint32(six[4:], uint32(i)) // each a /64
		binary.BigEndian.PutUint32(four[:], 10<<24|uint32(i))
		sessions = append(sessions, core.SetSession{ID: id, Chain: tunnelOf(conformance.LMAA, to, 0), Grace: 500 * time.Millisecond})
		keys = append(keys, core.SetKey{ID: id, Match: core.Match{Dst: netip.PrefixFrom(netip.AddrFrom16(six), 64)}, Up: true, Down: true},
			core.SetKey{ID: id, Match: core.Match{Dst: netip.PrefixFrom(netip.AddrFrom4(four), 32)}, Up: true, Down: true})
	}
	return sessions, keys
}

// TestMany fills the tables and measures; KEDGE_SESSIONS says how many, else a small number shows that nothing is lost or left.
func TestMany(t *testing.T) {
	n := 20000
	if s := os.Getenv("KEDGE_SESSIONS"); s != "" {
		var err error
		n, err = strconv.Atoi(s)
		must(t, err)
	}
	w := newWorld(t, "r")
	var p *Plane
	w.in("r", func() (err error) {
		p, err = New(Config{Sessions: n, Config: user.Config{Role: dataplane.Anchor, Local: []netip.Addr{conformance.LMAA}, MTU: 1500}})
		return err
	})
	t.Cleanup(func() { must(t, p.Close()) })
	empty := p.memory(t)
	sessions, keys := many(n, true)
	rate := func(what string, ops []core.Op, per int) {
		t.Helper()
		runtime.GC()
		start := time.Now()
		must(t, p.Update(ops))
		t.Logf("%s: %.2f million a second", what, float64(len(ops)/per)/time.Since(start).Seconds()/1e6)
	}
	rate("new sessions", sessions, 1)
	rate("keys", keys, 1)
	full := p.memory(t)
	t.Logf("kernel memory: %d octets a session, of them %d there before", full/n, empty/n)
	if p.Status().Partial {
		t.Error("not all sessions fit")
	}
	for i := range sessions {
		s := sessions[i].(core.SetSession)
		s.Chain = tunnelOf(conformance.LMAA, conformance.CoA2, 0)
		sessions[i] = s
	}
	rate("handovers to one gateway", sessions, 1)
	for i := range sessions {
		s := sessions[i].(core.SetSession)
		s.Chain.MTU = 1400
		sessions[i] = s
	}
	rate("refreshes", sessions, 1)
	var drops []core.Op
	for i := range sessions {
		drops = append(drops, core.Drop{ID: core.ID(i + 1)})
	}
	rate("ends", drops, 1)
	var k key
	var v where
	if p.k.keys.Iterate().Next(&k, &v) {
		t.Errorf("key %+v is left", k)
	}
	for i := range p.k.peers {
		if p.k.peers[i] != 0 {
			t.Fatalf("%d sessions are left in a tuple", p.k.peers[i])
		}
	}
	// All slots are to be had again, after a while.
	must(t, p.Update([]core.Op{core.SetSession{ID: 7, Chain: tunnelOf(conformance.LMAA, conformance.CoA1, 0)}}))
}

// memory is what the tables take in the kernel, octets.
func (p *Plane) memory(t *testing.T) (sum int) {
	t.Helper()
	for name, m := range p.k.all {
		i, err := m.Info()
		must(t, err)
		n, ok := i.Memlock()
		if !ok {
			t.Errorf("%s: no size", name)
		}
		sum += int(n)
	}
	return sum
}
