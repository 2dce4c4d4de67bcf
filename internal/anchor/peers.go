package anchor

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/gaissmai/bart"

	"kedge/internal/core"
	"kedge/internal/rate"
)

// peer is an entry of the config: who may signal, and how fast.
type peer struct {
	Peer
	gateway bool          // of the service PMIP6
	bucket  rate.Bucket   // of its messages
	waiting int           // requests of this peer that wait
	clock   time.Duration // boot time of the next look at its clock
}

// clockEvery is the time between two reports of a peer's clock.
const clockEvery = time.Minute

type peers struct {
	list      []*peer
	byName    map[string]*peer
	around    bart.Table[*peer]
	strangers rate.Bucket
	limit     rate.Limit // of each peer
}

// strangerRate is how many messages a second of unknown senders are looked at at all; they get at most a Binding Error.
const strangerRate = 10

var strangerLimit = rate.PerSecond(strangerRate, strangerRate)

func newPeers(cfg Config) (*peers, error) {
	each := float64(cfg.Limits.RequestsPerPeer)
	ps := &peers{limit: rate.PerSecond(each, each), byName: make(map[string]*peer)}
	for _, c := range cfg.Peers {
		p := &peer{Peer: c}
		p.gateway = !cfg.PMIP6.Off && (len(cfg.PMIP6.Gateways) == 0 || slices.Contains(cfg.PMIP6.Gateways, c.Name))
		for _, a := range c.Addresses {
			if other, ok := ps.around.Get(a.Masked()); ok {
				return nil, fmt.Errorf("anchor: %s is an address of peer %q and of %q", a, other.Name, c.Name)
			}
			ps.around.Insert(a.Masked(), p)
		}
		ps.list = append(ps.list, p)
		ps.byName[c.Name] = p
	}
	return ps, nil
}

// find gives the peer that an address belongs to, or nil.
func (ps *peers) find(a netip.Addr) *peer {
	if !a.IsValid() {
		return nil
	}
	p, _ := ps.around.Lookup(a)
	return p
}

// take counts a message against the limit of its peer, or of all strangers where that is nil; false: there are too many.
func (ps *peers) take(now core.Now, p *peer) bool {
	if p == nil {
		return ps.strangers.Take(now.Boot, strangerLimit)
	}
	return p.bucket.Take(now.Boot, ps.limit)
}

// protection of the signalling of a peer, "" if there is none.
func (ps *peers) protection(p *peer) string {
	if p == nil {
		return ""
	}
	return p.Protection
}

// gateway is a node that registered sessions, by the address it signals from.
type gateway struct {
	addr     netip.Addr
	local    netip.Addr // anchor address it speaks to
	peer     string
	sessions int
}

// maxGateways limits the addresses that may have sessions: as many as package heartbeat watches.
const maxGateways = 65536

type gateways struct {
	list   []gateway // [0] is nobody
	free   []uint32
	byAddr map[netip.Addr]uint32
}

func newGateways() gateways {
	return gateways{list: make([]gateway, 1), byAddr: make(map[netip.Addr]uint32)}
}

func (g *gateways) at(n uint32) *gateway { return &g.list[n] }

// sessions of a gateway, 0 for an unknown one.
func (g *gateways) sessions(a netip.Addr) int { return g.list[g.byAddr[a]].sessions }

func (g *gateways) full(a netip.Addr) bool {
	return g.byAddr[a] == 0 && len(g.byAddr) >= maxGateways
}

// enter counts a session of a gateway, first says that it is its first.
func (g *gateways) enter(a, local netip.Addr, peer string) (n uint32, first bool) {
	n = g.byAddr[a]
	if n == 0 {
		if k := len(g.free); k > 0 {
			n, g.free = g.free[k-1], g.free[:k-1]
		} else {
			n = uint32(len(g.list))
			g.list = append(g.list, gateway{})
		}
		g.list[n] = gateway{addr: a, local: local, peer: peer}
		g.byAddr[a] = n
	}
	g.list[n].local = local
	g.list[n].sessions++
	return n, g.list[n].sessions == 1
}

// leave is the reverse; last says that no session is left, addr whose it was.
func (g *gateways) leave(n uint32) (addr netip.Addr, last bool) {
	gw := &g.list[n]
	gw.sessions--
	if gw.sessions > 0 {
		return gw.addr, false
	}
	addr = gw.addr
	delete(g.byAddr, addr)
	*gw = gateway{}
	g.free = append(g.free, n)
	return addr, true
}
