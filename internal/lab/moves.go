package lab

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"kedge/internal/core"
	"kedge/internal/lab/ladder"
	"kedge/internal/lab/probe"
	"kedge/internal/lab/scenario"
)

// handover is one move of a host with the times at which its phases ended, as the captures show them. Zero = not yet.
type handover struct {
	Host, To string
	How      string
	Start    time.Time // the lab begins
	LinkUp   time.Time // the host's link works at the new place
	Trigger  time.Time // first frame of the host there, or the API call
	PBU      time.Time
	PBA      time.Time
	Down     time.Time // first user packet that reaches the host there
	PBUs     int       // sent from trigger to acceptance
	macs     []core.MAC
	id       string
	gateway  netip.Addr

	// Of a mobile node: PBU and PBA are its own BU and BA, and the trigger is its first usable care-of address there.
	mobile  bool
	ifname  string
	family  string                // of that address
	network func(netip.Addr) bool // whether an address is of the link's network
	changed bool                  // the one before was of the other family
	last    map[string]string     // by host: that family
	heard   time.Time             // first Router Advertisement there
}

// phases of a handover, in the order in which they are shown. Those of hosts and of mobile nodes are told apart.
var phases = []string{"link-up-to-trigger", "trigger-to-pbu", "pbu-to-pba", "pba-to-downlink", "attach"}

// nodePhases of a mobile node's move; care-of is the whole of it, from the usable address to the first downlink packet.
var nodePhases = []string{"link-up-to-care-of", "care-of-to-bu", "bu-to-ba", "ba-to-downlink", "care-of", "same-family", "family-change"}

// phase is the length of one; attach is trigger to first downlink packet.
func (h *handover) phase(name string) (time.Duration, bool) {
	span := func(a, b time.Time) (time.Duration, bool) {
		return b.Sub(a), !a.IsZero() && !b.IsZero()
	}
	if h.mobile != slices.Contains(nodePhases, name) {
		return 0, false
	}
	switch name {
	case "link-up-to-trigger", "link-up-to-care-of":
		return span(h.LinkUp, h.Trigger)
	case "trigger-to-pbu", "care-of-to-bu":
		return span(h.Trigger, h.PBU)
	case "pbu-to-pba", "bu-to-ba":
		return span(h.PBU, h.PBA)
	case "pba-to-downlink", "ba-to-downlink":
		return span(h.PBA, h.Down)
	case "attach", "care-of":
		return span(h.Trigger, h.Down)
	case "same-family", "family-change":
		d, ok := span(h.Trigger, h.Down)
		return d, ok && h.changed == (name == "family-change")
	}
	return 0, false
}

// see takes every captured frame: it feeds the ladder and the running handovers.
func (r *Run) see(link string, at time.Time, b []byte) {
	r.recMu.Lock()
	defer r.recMu.Unlock()
	f, ok := r.sas.Decode(link, at, b)
	if !ok {
		return
	}
	r.frames++
	for _, kind := range []string{"pbu", "pba", "bu", "ba", "esp"} {
		if f.Is(kind) || kind == "esp" && f.ESP {
			r.newest[link+" "+kind] = slices.Clone(b) // for steps that send it again
		}
	}
	r.last = max(r.last, at.UnixNano())
	if r.diagram != nil {
		r.diagram.Add(f)
	}
	for _, h := range r.moving {
		h.see(&f)
	}
	r.seeSetup(&f)
	r.moving = deleteDone(r.moving)
}

func deleteDone(hs []*handover) []*handover {
	out := hs[:0]
	for _, h := range hs {
		if h.Down.IsZero() || h.PBA.IsZero() {
			out = append(out, h)
		}
	}
	return out
}

func (h *handover) has(m core.MAC) bool {
	for _, x := range h.macs {
		if x == m {
			return true
		}
	}
	return false
}

func (h *handover) see(f *ladder.Frame) {
	if f.At.Before(h.Start) {
		return
	}
	if h.mobile {
		h.seeNode(f)
		return
	}
	switch {
	case f.Link == h.To && h.has(f.Src):
		if h.Trigger.IsZero() {
			h.Trigger = f.At
		}
	case f.Link == h.To && f.Kind == "DATA" && h.has(f.Dst):
		if h.Down.IsZero() && !h.Trigger.IsZero() {
			h.Down = f.At
		}
	case f.Kind == "PBU" && f.From == h.gateway && (f.ID == h.id || h.has(f.Host)):
		if h.PBA.IsZero() {
			if h.PBU.IsZero() {
				h.PBU = f.At
			}
			h.PBUs++
		}
	case f.Kind == "PBA" && f.To == h.gateway && f.Short == "PBA" && f.ID == h.id:
		if h.PBA.IsZero() && !h.PBU.IsZero() {
			h.PBA = f.At
		}
	}
}

// seeNode takes a frame of the link that a mobile node is on.
func (h *handover) seeNode(f *ladder.Frame) {
	switch {
	case f.Link != h.To:
	case f.Kind == "RA" && h.heard.IsZero() && !h.LinkUp.IsZero():
		h.heard = f.At
	case f.Kind == "BU" && h.has(f.Src) && h.PBA.IsZero():
		if h.Trigger.IsZero() && !h.heard.IsZero() {
			// The address was still there from the last visit: the advertisement says that it is of use again.
			h.reached(h.heard, "v6")
		}
		if h.PBU.IsZero() {
			h.PBU = f.At
		}
		h.PBUs++
	case f.Short == "BA" && h.has(f.Dst) && h.PBA.IsZero() && !h.PBU.IsZero():
		h.PBA = f.At
	case f.Kind == "DATA" && h.has(f.Dst) && h.Down.IsZero() && !h.PBU.IsZero():
		h.Down = f.At
	}
}

// reached notes when the node had a care-of address that it could use there.
func (h *handover) reached(at time.Time, fam string) {
	h.Trigger, h.family = at, fam
	h.changed = h.last[h.Host] != "" && h.last[h.Host] != fam
	h.last[h.Host] = fam
}

// careOf takes the time at which an address of a mobile node became usable.
func (r *Run) careOf(n *node) func(string, netip.Addr, time.Time) {
	if !n.mobile() {
		return nil
	}
	return func(ifname string, a netip.Addr, at time.Time) {
		if ifname == homeDevice || a == n.spec.Mobile.V6.Addr() || a == n.spec.Mobile.V4.Addr() {
			return
		}
		r.recMu.Lock()
		defer r.recMu.Unlock()
		for _, h := range r.moving {
			// An address of the network that was left may be tested again when the carrier comes back.
			if h.mobile && h.Host == n.name && h.ifname == ifname && h.Trigger.IsZero() && at.After(h.Start) && h.network(a) {
				h.reached(at, family(a))
			}
		}
		if r.family[n.name] == "" {
			r.family[n.name] = family(a)
		}
	}
}

// move takes a host to another link.
func (r *Run) move(ctx context.Context, m *scenario.Move) error {
	for _, n := range r.instances(m.Node) {
		if err := r.moveOne(ctx, n, m); err != nil {
			return err
		}
	}
	return nil
}

func (r *Run) moveOne(ctx context.Context, n *node, m *scenario.Move) error {
	h := &handover{Host: n.name, To: m.To, How: m.How, Start: time.Now(), id: n.spec.Identity(n.index), mobile: n.mobile(), last: r.family}
	h.network = func(netip.Addr) bool { return true }
	if gw := r.gatewayOf(m.To); gw != nil {
		h.gateway = gw.addrOf(false)
		if x := gw.router; x != nil {
			v6, v4 := x.v6, x.v4
			h.network = func(a netip.Addr) bool { return v6.Contains(a) || v4.Contains(a) }
		}
	}
	if m.How == "second" {
		return r.second(n, m, h)
	}
	w := n.wires[m.Iface]
	h.macs, h.ifname = []core.MAC{w.mac}, w.ifname
	r.note("%s moves to %s (%s)", n.name, m.To, m.How)
	if n.mobile() || !r.sc.Link(m.To).LAN {
		r.track(h)
	}
	switch m.How {
	case "silent":
		if err := r.connect(n, w, m.To); err != nil {
			return err
		}
	case "flap", "break":
		if err := r.wiring.Down(w.port); err != nil {
			return err
		}
		// The kernel tells of a lost carrier with a delay; a shorter outage would not be seen at all.
		if err := poll(ctx, 5*time.Second, func() bool { return !n.carrier(w.ifname) }); err != nil {
			return fmt.Errorf("%s does not see its carrier go: %w", n.name, err)
		}
		if m.How == "break" {
			if err := r.pause(ctx, breakFor-time.Since(h.Start)); err != nil {
				return err
			}
		}
		// What watches the links of an ordinary host ends its lease with the carrier and asks anew: gateways keep a host's
		// address, so there no client needs that, but a LAN is another network.
		lan := r.links[m.To].spec.LAN
		if lan {
			n.host.endLease(w)
		}
		if err := r.connect(n, w, m.To); err != nil {
			return err
		}
		if h.mobile { // the first word of the new network's router may come before this goroutine runs again
			r.recMu.Lock()
			h.LinkUp = time.Now()
			r.recMu.Unlock()
		}
		if err := r.wiring.Up(w.port); err != nil {
			return err
		}
		if lan {
			if err := n.host.lease(w); err != nil {
				return err
			}
		}
	}
	r.recMu.Lock()
	if h.LinkUp.IsZero() {
		h.LinkUp = time.Now()
	}
	r.recMu.Unlock()
	return nil
}

// breakFor is how long a break lasts.
const breakFor = time.Second

// second gives the host one more interface, on the new link; the old one stays until it is switched off.
func (r *Run) second(n *node, m *scenario.Move, h *handover) error {
	h.macs = []core.MAC{m.MAC}
	r.note("%s gets a second interface on %s", n.name, m.To)
	ifname := fmt.Sprintf("eth%d", len(n.wires))
	h.ifname = ifname
	r.track(h)
	if err := r.plug(n, ifname, m.MAC, r.sc.Link(m.To), nil, false); err != nil {
		return err
	}
	r.recMu.Lock()
	r.diagram.AddMAC(n.spec.Name, m.MAC)
	h.LinkUp = time.Now()
	r.recMu.Unlock()
	n.host.learnIndexes()
	return n.host.raise(n.wires[len(n.wires)-1])
}

func (r *Run) track(h *handover) {
	r.recMu.Lock()
	defer r.recMu.Unlock()
	r.handovers = append(r.handovers, h)
	r.moving = append(r.moving, h)
}

// sinceMove is how long a host has been where it is; since the start if it never moved.
func (r *Run) sinceMove(host string) time.Duration {
	r.recMu.Lock()
	defer r.recMu.Unlock()
	at := r.start
	for _, h := range r.handovers {
		if h.Host == host && h.LinkUp.After(at) {
			at = h.LinkUp
		}
	}
	return time.Since(at)
}

// settled says whether the newest move of a host is over: registered, and packets reach it.
func (r *Run) settled(host string) bool {
	r.recMu.Lock()
	defer r.recMu.Unlock()
	for i := len(r.handovers) - 1; i >= 0; i-- {
		if h := r.handovers[i]; h.Host == host {
			return !h.Down.IsZero() && !h.PBA.IsZero()
		}
	}
	return false
}

// Phase is the figure of one phase over all handovers.
type Phase struct {
	Name     string        `json:"name"`
	Count    int           `json:"count"`
	P50, P99 time.Duration `json:"-"`
	P50ms    float64       `json:"p50_ms"`
	P99ms    float64       `json:"p99_ms"`
}

// phaseFigures computes all phases; attach less the base line, if a ping of that name measured one.
func (r *Run) phaseFigures() (out []Phase) {
	r.recMu.Lock()
	defer r.recMu.Unlock()
	for _, name := range slices.Concat(phases, nodePhases) {
		var ds []time.Duration
		for _, h := range r.handovers {
			if d, ok := h.phase(name); ok {
				ds = append(ds, d)
			}
		}
		if len(ds) > 0 {
			out = append(out, phaseOf(name, ds, 0))
		}
		if p := r.probes["baseline"]; p != nil && (name == "attach" || name == "care-of" || strings.Contains(name, "family")) && len(ds) > 0 {
			base := p.Stats().RTT50
			if name == "attach" || name == "care-of" {
				out = append(out, phaseOf("baseline-rtt", []time.Duration{base}, 0))
			}
			out = append(out, phaseOf(name+"-less-rtt", ds, base))
		}
	}
	return out
}

func phaseOf(name string, ds []time.Duration, less time.Duration) Phase {
	p := Phase{Name: name, Count: len(ds), P50: probe.Quantile(ds, 0.5) - less, P99: probe.Quantile(ds, 0.99) - less}
	p.P50ms, p.P99ms = ms(p.P50), ms(p.P99)
	return p
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
