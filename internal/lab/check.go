package lab

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"time"

	"kedge/internal/api"
	"kedge/internal/lab/ladder"
	"kedge/internal/lab/probe"
	"kedge/internal/lab/scenario"
)

// holds evaluates one condition now; the text says what was found.
func (r *Run) holds(ctx context.Context, c *scenario.Cond) (bool, string) {
	switch c.Kind {
	case "host":
		for _, n := range r.instances(c.On) {
			if ok, why := r.hostHolds(ctx, n, c); !ok {
				return false, n.name + " " + why
			}
		}
		return r.distinct(c.On)
	case "probe":
		return r.probeHolds(c)
	case "binding":
		return r.bindingHolds(ctx, c)
	case "metric":
		return r.metricHolds(ctx, c)
	case "capture":
		return r.captureHolds(ctx, c)
	case "ladder":
		return r.ladderHolds(c)
	case "peer", "pool":
		return r.statusHolds(ctx, c)
	case "process":
		d := r.node(c.Want["on"].Text).daemon
		if d == nil || d.running() != c.Want["running"].Bool {
			return false, fmt.Sprintf("%s: running is %v", c.Want["on"].Text, d != nil && d.running())
		}
		return true, ""
	case "plane":
		return r.planeHolds(ctx, c)
	case "route":
		return r.routeHolds(c)
	case "handover":
		return r.handoverHolds(c)
	}
	return false, "unknown condition " + c.Kind
}

func (r *Run) hostHolds(ctx context.Context, n *node, c *scenario.Cond) (bool, string) {
	if n.host == nil {
		if w, ok := c.Want["trace"]; ok {
			if ok, why := r.traceHolds(n, w.Text, c.Want["hops"].List); !ok {
				return false, why
			}
		}
		if w, ok := c.Want["reaches"]; ok {
			return r.reaches(ctx, n, w.Text, c.Want["from"].Text)
		}
		if !c.Has("trace") {
			return false, "is no host on access links"
		}
		return true, ""
	}
	if err := n.host.check(); err != nil {
		return false, err.Error()
	}
	ifname := c.Want["interface"].Text
	for _, fam := range []string{"v4", "v6"} {
		w, ok := c.Want[fam]
		if !ok {
			continue
		}
		if have := n.host.usableAddrs(ifname, fam); !addrsMatch(have, w.Text) {
			return false, fmt.Sprintf("has %s %v, want %s", fam, have, w.Text)
		}
	}
	if w, ok := c.Want["same"]; ok {
		if ifname == "" {
			ifname = cmp.Or(n.homeDevice(), "eth0")
		}
		for _, fam := range w.List {
			first := n.host.firstAddr(ifname, fam)
			have := n.host.usableAddrs(ifname, fam)
			if len(have) != 1 || have[0].Addr() != first {
				return false, fmt.Sprintf("has %s %v, had first %v", fam, have, first)
			}
		}
	}
	if w, ok := c.Want["changes"]; ok && !w.Cmp.Holds(float64(n.host.lost())) {
		return false, fmt.Sprintf("lost an address %d times, want %s", n.host.lost(), w.Cmp)
	}
	if w, ok := c.Want["since-move"]; ok && !w.Cmp.Holds(r.sinceMove(n.name).Seconds()) {
		return false, fmt.Sprintf("moved %v ago, want %s", r.sinceMove(n.name), w.Cmp)
	}
	if w, ok := c.Want["settled"]; ok && r.settled(n.name) != w.Bool {
		return false, "has not settled"
	}
	if w, ok := c.Want["trace"]; ok {
		if ok, why := r.traceHolds(n, w.Text, c.Want["hops"].List); !ok {
			return false, why
		}
	}
	if w, ok := c.Want["lookup"]; ok {
		if ok, why := r.lookup(ctx, n, w.Text, c.Want["answer"].Text); !ok {
			return false, why
		}
	}
	if w, ok := c.Want["fetch"]; ok {
		if ok, why := r.fetch(ctx, n, w.Text, c.Want["says"].Text); !ok {
			return false, why
		}
	}
	if c.Has("clean") {
		if ok, why := r.clean(n); ok != c.Want["clean"].Bool {
			return false, "is not as it was: " + why
		}
	}
	if w, ok := c.Want["reaches"]; ok {
		return r.reaches(ctx, n, w.Text, c.Want["from"].Text)
	}
	return true, ""
}

// inText says whether an address is the one that is written, or in the network that is.
func inText(a netip.Addr, text string) bool {
	if x, err := netip.ParseAddr(text); err == nil {
		return a == x
	}
	p, err := netip.ParsePrefix(text)
	return err == nil && p.Contains(a)
}

// addrsMatch compares the addresses of a family with an address, a network, "any" or "none".
func addrsMatch(have []netip.Prefix, want string) bool {
	switch want {
	case "none":
		return len(have) == 0
	case "any":
		return len(have) > 0
	}
	if a, err := netip.ParseAddr(want); err == nil {
		return slices.ContainsFunc(have, func(p netip.Prefix) bool { return p.Addr() == a })
	}
	p, err := netip.ParsePrefix(want)
	return err == nil && slices.ContainsFunc(have, func(x netip.Prefix) bool { return p.Contains(x.Addr()) })
}

// distinct holds that no two hosts of a crowd share an address.
func (r *Run) distinct(name string) (bool, string) {
	seen := map[netip.Addr]string{}
	for _, n := range r.instances(name) {
		if n.host == nil {
			continue
		}
		for _, fam := range []string{"v4", "v6"} {
			for _, p := range n.host.usableAddrs("", fam) {
				if o := seen[p.Addr()]; o != "" && o != n.name {
					return false, fmt.Sprintf("%s and %s both have %s", o, n.name, p.Addr())
				}
				seen[p.Addr()] = n.name
			}
		}
	}
	return true, ""
}

// reaches pings NODE, NODE.v4 or NODE.v6: one answer in each family that both have. Source "any": the kernel chooses, and a
// mobile node may so do without its home addresses.
func (r *Run) reaches(ctx context.Context, from *node, target, source string) (bool, string) {
	name, fam, only := strings.Cut(target, ".")
	to := r.node(name)
	if to == nil {
		return false, target + " is no single node"
	}
	tried := false
	for _, f := range []string{"v4", "v6"} {
		if only && f != fam {
			continue
		}
		src, dst := r.addrNow(from, f), r.addrNow(to, f)
		if source == "any" {
			for _, w := range from.wires {
				if have := from.host.usableAddrs(w.ifname, f); len(have) > 0 {
					src = have[0].Addr() // only whether there is one counts
				}
			}
		}
		if !src.IsValid() || !dst.IsValid() {
			if only {
				return false, fmt.Sprintf("has no %s address to or from %s", f, name)
			}
			continue
		}
		tried = true
		if source == "any" {
			src = netip.Addr{}
		}
		p, err := probe.Start(probe.Spec{Kind: "ping", From: from.ns, To: to.ns, Src: src, Dst: dst, Every: 50 * time.Millisecond, Size: 56})
		if err != nil {
			return false, err.Error()
		}
		err = poll(ctx, 400*time.Millisecond, func() bool { return p.Stats().Received > 0 })
		go p.Stop() // it lingers for stragglers that nobody counts
		if err != nil {
			return false, fmt.Sprintf("gets no answer from %s at %s", name, dst)
		}
	}
	if !tried {
		return false, "has no address in common with " + name
	}
	return true, ""
}

// addrNow is a node's address of a family.
func (r *Run) addrNow(n *node, fam string) netip.Addr {
	if n.host == nil {
		return n.addrOf(fam == "v4")
	}
	if have := n.host.usableAddrs("", fam); len(have) > 0 {
		return have[0].Addr()
	}
	return netip.Addr{}
}

func (r *Run) probeHolds(c *scenario.Cond) (bool, string) {
	p := r.probes[c.On]
	if p == nil {
		return false, c.On + " was not started"
	}
	s := p.Stats()
	for key, v := range map[string]float64{
		"sent": float64(s.Sent), "received": float64(s.Received), "lost": float64(s.Lost), "duplicates": float64(s.Duplicates),
		"resets": float64(s.Resets), "gap": s.Gap.Seconds(), "rtt-p50": s.RTT50.Seconds(), "octets": float64(s.Octets),
	} {
		if w, ok := c.Want[key]; ok && !w.Cmp.Holds(v) {
			return false, fmt.Sprintf("%s: %s is %v, want %s", c.On, key, v, w.Cmp)
		}
	}
	if w, ok := c.Want["alive"]; ok && w.Bool != s.Alive {
		return false, fmt.Sprintf("%s: alive is %v", c.On, s.Alive)
	}
	return true, ""
}

// bindingHolds counts the bindings that match; without count at least one must.
func (r *Run) bindingHolds(ctx context.Context, c *scenario.Cond) (bool, string) {
	n, seen, err := 0, []string{}, error(nil)
	for _, x := range r.nodes {
		if x.daemon == nil {
			continue
		}
		if on, ok := c.Want["on"]; ok && on.Text != x.name || !ok && !r.anchors[x.name] {
			continue
		}
		bs, e := x.daemon.bindings(ctx)
		if e != nil {
			err = e
		}
		for _, b := range bs {
			where := b.Gateway
			if b.CareOf.IsValid() {
				where = fmt.Sprintf("%s port %d (%s, NAT %v)", b.CareOf, b.Port, b.Framing, b.NAT)
			}
			seen = append(seen, fmt.Sprintf("%s at %s %s %v %v %v %v", b.ID, where, b.State, b.Families, b.Prefixes, b.IPv4, b.Home))
			if r.bindingMatches(c, &b) {
				n++
			}
		}
	}
	if err != nil {
		return false, err.Error()
	}
	want := scenario.Compare{Op: ">=", Val: 1}
	if w, ok := c.Want["count"]; ok {
		want = w.Cmp
	}
	if want.Holds(float64(n)) {
		return true, ""
	}
	if len(seen) > 6 {
		seen = append(seen[:6], fmt.Sprintf("and %d more", len(seen)-6))
	}
	return false, fmt.Sprintf("%d bindings match, want %s; there are: %s", n, want, strings.Join(seen, "; "))
}

func (r *Run) bindingMatches(c *scenario.Cond, b *api.Binding) bool {
	for key, w := range c.Want {
		ok := true
		switch key {
		case "id":
			ok = b.ID == w.Text
		case "host":
			ok = slices.ContainsFunc(r.instances(w.Text), func(n *node) bool { return n.spec.Identity(n.index) == b.ID })
		case "at":
			ok = b.ProxyCoA == r.node(w.Text).addrOf(false)
		case "state":
			ok = b.State == w.Text
		case "dialect":
			ok = b.Dialect == w.Text
		case "care-of":
			ok = inText(b.CareOf, w.Text)
		case "framing":
			ok = b.Framing == w.Text
		case "nat":
			ok = b.NAT == w.Bool
		case "port":
			ok = w.Cmp.Holds(float64(b.Port))
		case "home":
			ok = slices.ContainsFunc(b.Home, func(p netip.Prefix) bool { return inText(p.Addr(), w.Text) })
		case "att":
			ok = w.Cmp.Holds(float64(b.ATT))
		case "v4":
			ok = b.IPv4.IsValid() && (b.IPv4.Addr().String() == w.Text || w.Text == "any") || w.Text == "none" && !b.IPv4.IsValid()
		case "families":
			have, want := slices.Clone(b.Families), slices.Clone(w.List)
			slices.Sort(have)
			slices.Sort(want)
			ok = slices.Equal(have, want)
		}
		if !ok {
			return false
		}
	}
	return true
}

func (r *Run) metricHolds(ctx context.Context, c *scenario.Cond) (bool, string) {
	sum := 0.0
	for _, n := range r.nodes {
		if n.daemon == nil || !n.daemon.running() || c.Has("node") && c.Want["node"].Text != n.name {
			continue
		}
		v, err := n.daemon.metric(ctx, c.Want["name"].Text, c.Want["labels"].Map)
		if err != nil {
			return false, err.Error()
		}
		sum += v
	}
	if w := c.Want["is"]; !w.Cmp.Holds(sum) {
		return false, fmt.Sprintf("%s%v is %v, want %s", c.Want["name"].Text, c.Want["labels"].Map, sum, w.Cmp)
	}
	return true, ""
}

// captureHolds counts the frames that a display filter of tshark finds so far.
func (r *Run) captureHolds(ctx context.Context, c *scenario.Cond) (bool, string) {
	l := r.links[c.Want["link"].Text]
	l.cap.flush()
	out, err := exec.CommandContext(ctx, "tshark", r.tsharkArgs(l.cap.file, c.Want["filter"].Text)...).Output()
	if err != nil && !strings.Contains(toolError(err), "cut short") { // the newest frame may be half written
		return false, "tshark: " + toolError(err)
	}
	n := strings.Count(string(out), "\n")
	want := scenario.Compare{Op: ">=", Val: 1}
	if w, ok := c.Want["count"]; ok {
		want = w.Cmp
	}
	if !want.Holds(float64(n)) {
		return false, fmt.Sprintf("%d frames of %s match %q, want %s", n, l.spec.Name, c.Want["filter"].Text, want)
	}
	return true, ""
}

func toolError(err error) string {
	if x, ok := err.(*exec.ExitError); ok && len(x.Stderr) > 0 {
		return strings.TrimSpace(string(x.Stderr))
	}
	return err.Error()
}

func (r *Run) ladderHolds(c *scenario.Cond) (bool, string) {
	var about func(*ladder.Frame) bool
	if w, ok := c.Want["host"]; ok {
		ns := r.instances(w.Text)
		about = func(f *ladder.Frame) bool {
			return slices.ContainsFunc(ns, func(n *node) bool {
				macs := n.macs()
				return f.ID != "" && f.ID == n.spec.Identity(n.index) || slices.Contains(macs, f.Host) || slices.Contains(macs, f.Src) || slices.Contains(macs, f.Dst)
			})
		}
	}
	r.recMu.Lock()
	defer r.recMu.Unlock()
	missing, took := r.diagram.Order(c.Want["order"].List, about)
	if missing != "" {
		return false, fmt.Sprintf("the ladder has no %q in this place", missing)
	}
	if w, ok := c.Want["within"]; ok && !w.Cmp.Holds(took.Seconds()) {
		return false, fmt.Sprintf("the sequence took %v, want %s", took, w.Cmp)
	}
	return true, ""
}

func (r *Run) statusHolds(ctx context.Context, c *scenario.Cond) (bool, string) {
	n := r.node(c.Want["on"].Text)
	if n == nil || n.daemon == nil || !n.daemon.running() {
		return false, c.Want["on"].Text + " does not run"
	}
	s, err := n.daemon.status(ctx)
	if err != nil {
		return false, err.Error()
	}
	if c.Kind == "peer" {
		for _, p := range s.Peers {
			if p.Name != c.Want["peer"].Text {
				continue
			}
			if w, ok := c.Want["alive"]; ok && w.Bool != p.Alive {
				return false, fmt.Sprintf("%s sees %s alive: %v", n.name, p.Name, p.Alive)
			}
			if w, ok := c.Want["restarts"]; ok && !w.Cmp.Holds(float64(p.Restarts)) {
				return false, fmt.Sprintf("%s sees restart counter %d of %s, want %s", n.name, p.Restarts, p.Name, w.Cmp)
			}
			return true, ""
		}
		return false, fmt.Sprintf("%s knows no peer %s", n.name, c.Want["peer"].Text)
	}
	for _, p := range s.Pools {
		if p.Name != c.Want["pool"].Text {
			continue
		}
		for key, v := range map[string]uint64{"used": p.Used, "free": p.Free} {
			if w, ok := c.Want[key]; ok && !w.Cmp.Holds(float64(v)) {
				return false, fmt.Sprintf("pool %s: %s is %d, want %s", p.Name, key, v, w.Cmp)
			}
		}
		return true, ""
	}
	return false, fmt.Sprintf("%s has no pool %s", n.name, c.Want["pool"].Text)
}

func (r *Run) handoverHolds(c *scenario.Cond) (bool, string) {
	name := "attach"
	if w, ok := c.Want["phase"]; ok {
		name = w.Text
	}
	for _, p := range r.phaseFigures() {
		if p.Name != name {
			continue
		}
		for key, v := range map[string]float64{"p50": p.P50.Seconds(), "p99": p.P99.Seconds(), "count": float64(p.Count)} {
			if w, ok := c.Want[key]; ok && !w.Cmp.Holds(v) {
				return false, fmt.Sprintf("phase %s: %s is %v, want %s", name, key, v, w.Cmp)
			}
		}
		return true, ""
	}
	return false, "no handover has the phase " + name
}

// poll asks until ok, at most for a while.
func poll(ctx context.Context, within time.Duration, ok func() bool) error {
	end := time.Now().Add(within)
	t := time.NewTicker(5 * time.Millisecond)
	defer t.Stop()
	for {
		if ok() {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("not within %v", within)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
	}
}
