package simnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/netip"
	"slices"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	dp "kedge/internal/dataplane/mem"
	"kedge/internal/loop"
	"kedge/internal/store/mem"
	"kedge/wire/ip"
)

// NodeConfig is an anchor, a gateway or a mobile node.
type NodeConfig struct {
	Name string
	// New makes the machine at every start.
	New  func(rand io.Reader) (core.Machine, error)
	Role dataplane.Role
	// Attach says where the node has which addresses; signalling and tunnels use them.
	Attach []Attachment
	Access []Access // of a gateway
	// Codec makes, at every start, what stands between packets and messages. Without one messages travel bare, as MHKind.
	Codec func() (Codec, error)
	// Ifaces are the links of a mobile node: name, index, MAC. Home and ProbeID as in dataplane/mem.
	Ifaces  []Iface
	Home    []netip.Addr
	ProbeID uint16
	// CommitTime is how long the applier takes for a round; what comes in meanwhile gathers for the next.
	CommitTime time.Duration
	// LocalRouting as in dataplane/mem.
	LocalRouting bool
	// Correspondents and Correspondent as in dataplane/mem.
	Correspondents, Correspondent bool
}

// Codec is a signal.Codec.
type Codec interface {
	In(now core.Now, pkt []byte, outer core.Chain, into *core.Packet) error
	Out(now core.Now, p *core.Packet, into []byte) ([]byte, error)
	Answer(pkt []byte, outer core.Chain, err error) (core.Packet, bool)
	Protect(now core.Now, pkt, into []byte) ([]byte, error)
	Guards(home netip.Addr) bool
	loop.Security
}

// Attachment to a core link.
type Attachment struct {
	Link  *Link
	Addrs []netip.Addr
}

// Access is a gateway's port on an access link.
type Access struct {
	Air       *Air
	Name      string
	If        int
	MAC       core.MAC
	LinkLocal netip.Addr
}

// Node runs one machine. It makes effects happen as the daemon's loop does: a round at a time, records before forwarding
// before messages, by the loop's own Applier.
type Node struct {
	Name    string
	Machine core.Machine // of the present life
	Engine  *dp.Engine   // of the present life: the data plane dies with the daemon
	Store   *mem.Store
	// Offset is how far the node's wall clock is from the true time.
	Offset time.Duration
	// Native gets packets that an anchor forwards natively; nil drops them.
	Native func(pkt []byte)
	// Kernel gets what comes to a correspondent and is neither signalling nor of route optimization; nil: the data plane does.
	Kernel func(pkt []byte)
	// Emits sees what the machine emits.
	Emits func(now core.Now, e core.Emit)
	// FailHost, FailData are asked before host changes and forwarding; an error fails them.
	FailHost func(op core.HostOp) error
	FailData func(op core.Op) error
	// Steps counts the events that machines of this node have handled.
	Steps int

	s     *Sim
	cfg   NodeConfig
	apply *loop.Applier
	lease core.Lease
	life  int // odd while it runs; changes at every start and end
	tick  *Timer
	at    time.Duration // of tick

	gathering []loop.Group
	applying  bool
	flushing  bool
	hostState map[hostKey]core.HostOp
	links     map[int]bool // carrier of access links
	ifaces    []*Iface
	codec     Codec
	frozen    bool
	held      []core.Event                 // while frozen
	told      map[netip.Addr]time.Duration // senders of Parameter Problems
	replies   map[core.Ref]*core.Reply
	ref       core.Ref
	out       dp.Out
}

type hostKey struct {
	kind, name string
	prefix     netip.Prefix
	ifi, table int
}

// Node adds a node to the world; Start starts it.
func (s *Sim) Node(cfg NodeConfig) *Node {
	n := &Node{Name: cfg.Name, Store: mem.New(), s: s, cfg: cfg, links: make(map[int]bool)}
	for _, at := range cfg.Attach {
		for _, a := range at.Addrs {
			at.Link.member = append(at.Link.member, member{a, n})
		}
	}
	for _, a := range cfg.Access {
		a.Air.node, a.Air.port = n, a
		n.links[a.If] = true
	}
	for _, i := range cfg.Ifaces {
		i.m = n
		n.ifaces = append(n.ifaces, &i)
	}
	s.nodes = append(s.nodes, n)
	return n
}

// Nodes and Hosts of the world, in the order in which they were made.
func (s *Sim) Nodes() []*Node { return s.nodes }

// Now is the time as the node sees it.
func (n *Node) Now() core.Now {
	now := n.s.Now()
	now.Wall = now.Wall.Add(n.Offset)
	return now
}

// Up reports whether the node runs.
func (n *Node) Up() bool { return n.life%2 == 1 }

// Start starts the node, restoring what its store has.
func (n *Node) Start() error {
	if n.Up() {
		return fmt.Errorf("simnet: %s runs already", n.Name)
	}
	n.life++
	err := n.start()
	if err != nil {
		n.life++
		return fmt.Errorf("simnet: start %s: %w", n.Name, err)
	}
	n.s.trace("%s starts", n.Name)
	return nil
}

func (n *Node) start() (err error) {
	if n.Machine, err = n.cfg.New(n.s.entropy(n.Name, n.life)); err != nil {
		return err
	}
	if n.cfg.Codec != nil {
		if n.codec, err = n.cfg.Codec(); err != nil {
			return err
		}
	}
	var local []netip.Addr
	for _, at := range n.cfg.Attach {
		local = append(local, at.Addrs...)
	}
	var links []dataplane.Link
	for _, a := range n.cfg.Access {
		links = append(links, dataplane.Link{Name: a.Name, If: a.If, MAC: a.MAC, LinkLocal: a.LinkLocal})
	}
	if n.Engine, err = dp.New(dp.Config{
		Role: n.cfg.Role, Local: local, Access: links, LocalRouting: n.cfg.LocalRouting, Home: n.cfg.Home, ProbeID: n.cfg.ProbeID,
		Unreachable: n.cfg.Role == dataplane.Node, Correspondents: n.cfg.Correspondents, Correspondent: n.cfg.Correspondent, Now: func() time.Duration { return n.s.boot },
	}); err != nil {
		return err
	}
	life := n.life
	n.Engine.Reports(func(r core.Reported) { n.later(life, func() { n.step(r) }) })
	n.hostState = make(map[hostKey]core.HostOp)
	n.replies = make(map[core.Ref]*core.Reply)
	n.gathering, n.applying, n.flushing = nil, false, false
	if n.lease, err = n.Store.Own(context.Background(), n.Name); err != nil {
		return err
	}
	n.apply = &loop.Applier{Store: n.Store, Token: n.lease.Token(), Data: nodeData{n}, Host: nodeHost{n}, Write: n.write}
	if n.codec != nil {
		n.apply.Security = n.codec
		n.Engine.Guard(n.codec.Guards)
	}
	done, err := n.apply.Restore(context.Background(), n.Name, n.handle)
	if err != nil {
		return err
	}
	for _, ev := range done {
		n.later(life, func() { n.step(ev) })
	}
	n.later(life, func() {
		for _, a := range n.cfg.Access {
			n.step(core.HostChanged{Op: core.HostOp{Kind: "link", If: a.If, Name: a.Name, Value: "up"}, Up: n.links[a.If]})
		}
		n.bootHost()
		n.step(core.HostChanged{Synced: true})
	})
	n.arm()
	return nil
}

// Kill ends the node as kill -9 does: what was not applied is lost, what was written behind is not written, forwarding
// and host state are gone, the store has what was committed.
func (n *Node) Kill() {
	if !n.Up() {
		return
	}
	n.life++
	n.tick.Stop(n.s)
	n.tick = nil
	n.gathering, n.held, n.frozen = nil, nil, false
	n.Store = n.Store.Reopen()
	n.s.trace("%s is killed", n.Name)
}

// Stop ends the node as SIGTERM does: what the machine decided is carried out and written.
func (n *Node) Stop() error {
	if !n.Up() {
		return nil
	}
	if len(n.gathering) > 0 {
		n.apply.Apply(context.Background(), n.gathering)
	}
	err := n.apply.Flush(context.Background())
	n.Kill()
	return err
}

// LoseStore takes the records away, as a disk that dies does. The node must not run.
func (n *Node) LoseStore() {
	if n.Up() {
		panic("simnet: the store of a running node cannot be lost")
	}
	n.Store = mem.New()
}

// later makes f happen after what is queued for this moment, if the node still lives this life then.
func (n *Node) later(life int, f func()) { n.after(life, 0, f) }

func (n *Node) after(life int, d time.Duration, f func()) {
	n.s.After(d, func() {
		if n.life == life {
			f()
		}
	})
}

// Do gives the machine an event now.
func (n *Node) Do(ev core.Event) {
	if n.Up() {
		n.step(ev)
	}
}

// Command asks the machine and gives its reply. It fails if there is none at once: machines answer without waiting.
func (n *Node) Command(body any) (any, error) {
	if !n.Up() {
		return nil, errors.New("simnet: " + n.Name + " does not run")
	}
	n.ref++
	ref := n.ref | 1<<63 // apart from the machine's own
	n.replies[ref] = nil
	n.step(core.Command{Ref: ref, Body: body})
	r := n.replies[ref]
	delete(n.replies, ref)
	if r == nil {
		return nil, fmt.Errorf("simnet: %s gave no reply to %T", n.Name, body)
	}
	return r.Body, r.Err
}

// step is one turn of the loop.
func (n *Node) step(ev core.Event) {
	if n.frozen {
		n.held = append(n.held, ev)
		return
	}
	if g := n.handle(ev); len(g) > 0 {
		n.gathering = append(n.gathering, g)
		n.round()
	}
	n.arm()
}

// handle gives the machine one event and serves what needs no I/O, as loop.Loop does.
func (n *Node) handle(ev core.Event) loop.Group {
	n.Steps++
	life, now := n.life, n.Now()
	var rest loop.Group
	for _, e := range n.Machine.Handle(now, ev, nil) {
		switch e := e.(type) {
		case core.Emit:
			n.s.trace("%s: %s %s -> %s %s %v", n.Name, e.Name, e.From, e.To, e.Why, e.Fields)
			if n.Emits != nil {
				n.Emits(now, e)
			}
		case core.Reply:
			if _, asked := n.replies[e.Ref]; asked {
				n.replies[e.Ref] = &e
			}
		case core.Ask:
			answer := loop.Counted(nodeData{n}, e)
			n.later(life, func() { n.step(answer) })
		case core.Tell:
			n.later(life, func() { n.step(core.Told{Body: e.Body}) })
		default:
			rest = append(rest, e)
		}
	}
	return rest
}

// round has what gathered applied: now and then, as the daemon's second goroutine does.
func (n *Node) round() {
	if n.applying || len(n.gathering) == 0 {
		return
	}
	n.applying = true
	life := n.life
	n.after(life, n.cfg.CommitTime, func() {
		round := n.gathering
		n.gathering, n.applying = nil, false
		done := n.apply.Apply(context.Background(), round)
		for _, ev := range done {
			n.later(life, func() { n.step(ev) })
		}
		n.flushLater(life, round)
		n.round()
	})
}

// flushLater writes what was written behind, a second later.
func (n *Node) flushLater(life int, round []loop.Group) {
	lazy := slices.ContainsFunc(round, func(g loop.Group) bool {
		return slices.ContainsFunc(g, func(e core.Effect) bool { p, ok := e.(core.Persist); return ok && p.Lazy })
	})
	if !lazy || n.flushing {
		return
	}
	n.flushing = true
	n.after(life, time.Second, func() { n.flush(life) })
}

// flush tries again every second, as the daemon does.
func (n *Node) flush(life int) {
	err := n.apply.Flush(context.Background())
	if n.flushing = err != nil; n.flushing {
		n.after(life, time.Second, func() { n.flush(life) })
		n.step(core.Done{Err: fmt.Errorf("store: %w", err)})
	}
}

// arm sets the timer to the machine's deadline.
func (n *Node) arm() {
	if !n.Up() {
		return
	}
	at, ok := n.Machine.Deadline()
	if n.tick != nil && n.tick.index >= 0 {
		if ok && n.at == at {
			return
		}
		n.tick.Stop(n.s)
	}
	if !ok {
		n.tick = nil
		return
	}
	life := n.life
	n.at = at
	n.tick = n.s.At(at, func() {
		if n.life == life {
			n.step(core.Tick{})
		}
	})
}

// receive takes a packet from a core link.
func (n *Node) receive(k Kind, src, dst netip.Addr, b []byte) {
	if !n.Up() || n.frozen {
		return
	}
	if k == MHKind {
		p := core.Packet{Src: netip.AddrPortFrom(src, 0), Dst: netip.AddrPortFrom(dst, 0), B: b}
		n.step(loop.Decode("mh", &p))
		return
	}
	if n.codec != nil && src.Is6() && signals(b) {
		n.signal(b, core.Chain{})
		return
	}
	if n.Kernel != nil && plain(b) {
		n.Kernel(b)
		return
	}
	n.out.Reset()
	n.Engine.Tunnel(n.s.boot, b, &n.out)
	n.forward()
}

// plain says whether a packet is one of a transport protocol, without headers of route optimization.
func plain(b []byte) bool {
	h, err := ip.Parse(b)
	return err == nil && h.Proto != ip.DstOpts && h.Proto != ip.Routing && h.Proto != ip.IPv6
}

// frame takes a frame from an access link: the signalling port sees what its filter passes, the data plane all IP.
func (n *Node) frame(ifi int, b []byte) {
	if !n.Up() || !n.links[ifi] {
		return
	}
	if Signals(b) {
		p := core.Packet{If: ifi, MAC: core.MAC(b[6:12]), B: slices.Clone(b)}
		n.step(loop.Decode("access", &p))
	}
	if t := uint16(b[12])<<8 | uint16(b[13]); t != 0x0800 && t != 0x86dd {
		return
	}
	a := n.cfg.Access[slices.IndexFunc(n.cfg.Access, func(a Access) bool { return a.If == ifi })]
	in := dp.Native{If: ifi, MAC: core.MAC(b[6:12]), B: b[14:]}
	n.out.Reset()
	switch {
	case b[6]&1 != 0 || in.MAC == a.MAC:
		return
	case core.MAC(b[:6]) == a.MAC:
		n.Engine.Native(n.s.boot, in, &n.out)
	case b[0]&1 != 0:
		n.Engine.Sighted(n.s.boot, in, &n.out)
	}
	n.forward()
}

// FromNative takes a packet from an anchor's native side.
func (n *Node) FromNative(pkt []byte) {
	if !n.Up() || n.frozen {
		return
	}
	n.out.Reset()
	n.Engine.Native(n.s.boot, dp.Native{B: slices.Clone(pkt)}, &n.out)
	n.forward()
}

// forward sends what the data plane made.
func (n *Node) forward() {
	for _, p := range n.out.Packets {
		b := slices.Clone(p.B)
		switch {
		case p.To == dataplane.ToTunnel:
			n.depart(b)
		case p.To == dataplane.ToSignal:
			outer := p.Outer
			if outer.N == 0 {
				n.later(n.life, func() { n.protect(b) })
				continue
			}
			n.later(n.life, func() { n.signal(b, outer) })
		case n.cfg.Role == dataplane.Gateway && p.If != 0:
			i := slices.IndexFunc(n.cfg.Access, func(a Access) bool { return a.If == p.If })
			a := n.cfg.Access[i]
			typ := [2]byte{0x08, 0x00}
			if b[0]>>4 == 6 {
				typ = [2]byte{0x86, 0xdd}
			}
			a.Air.fromNode(slices.Concat(p.MAC[:], a.MAC[:], typ[:], b))
		case n.Native != nil:
			n.Native(b)
		}
	}
}

// carry finds the link of a packet.
func (n *Node) carry(p *Packet) {
	for _, at := range n.cfg.Attach {
		if at.Link.at(p.Dst) != nil {
			at.Link.carry(p)
			return
		}
	}
	if len(n.cfg.Attach) > 0 {
		n.cfg.Attach[0].Link.carry(p) // which nobody gets
	}
}

// write is the ports' side of the applier.
func (n *Node) write(kind string, pkts []core.Packet) error {
	for _, p := range pkts {
		switch {
		case kind == "mh" && n.codec != nil:
			n.encode(&p)
		case kind == "mh":
			n.carry(&Packet{Kind: MHKind, From: n.Name, Src: p.Src.Addr(), Dst: p.Dst.Addr(), B: slices.Clone(p.B)})
		case n.ifaces != nil:
			if i := slices.IndexFunc(n.ifaces, func(i *Iface) bool { return i.If == p.If }); i >= 0 && n.ifaces[i].up() {
				n.ifaces[i].on.frame(n.ifaces[i], slices.Clone(p.B))
			}
		case kind == "access":
			i := slices.IndexFunc(n.cfg.Access, func(a Access) bool { return a.If == p.If })
			if i < 0 {
				return fmt.Errorf("simnet: %s has no access link %d", n.Name, p.If)
			}
			if n.links[p.If] {
				n.cfg.Access[i].Air.fromNode(p.B)
			}
		}
	}
	return nil
}

// hostChanged changes a link of the node.
func (n *Node) hostChanged(c core.HostChanged) {
	if c.Op.Kind == "link" {
		n.links[c.Op.If] = c.Up && !c.Gone
	}
	n.Do(c)
}

// Routes and other host state that the node's present life has set.
func (n *Node) HostState(kind string) (ops []core.HostOp) {
	for k, op := range n.hostState {
		if k.kind == kind {
			ops = append(ops, op)
		}
	}
	return ops
}

// nodeHost is the core.Host of the applier.
type nodeHost struct{ n *Node }

func (h nodeHost) Now() core.Now { return h.n.Now() }
func (h nodeHost) Apply(ops []core.HostOp) error {
	for i, op := range ops {
		if h.n.FailHost != nil {
			if err := h.n.FailHost(op); err != nil {
				return &core.OpError{Index: i, Err: err}
			}
		}
		k := hostKey{op.Kind, op.Name, op.Prefix, op.If, op.Table}
		if op.Del {
			delete(h.n.hostState, k)
		} else {
			h.n.hostState[k] = op
		}
		h.n.hostOp(op)
	}
	return nil
}
func (h nodeHost) Watch(context.Context, func(core.HostChanged)) error { return errors.ErrUnsupported }
func (h nodeHost) Open(string, ...string) (core.Port, error)           { return nil, errors.ErrUnsupported }

// nodeData is the core.Dataplane of the applier: the engine, with failures.
type nodeData struct{ n *Node }

func (d nodeData) Update(ops []core.Op) error {
	if d.n.FailData != nil {
		for i, op := range ops {
			if err := d.n.FailData(op); err != nil {
				if e := d.n.Engine.Update(ops[:i]); e != nil {
					return e
				}
				return &core.OpError{Index: i, Err: err}
			}
		}
	}
	return d.n.Engine.Update(ops)
}

func (d nodeData) Sync(all iter.Seq[core.Op]) error { return d.n.Engine.Sync(all) }
func (d nodeData) Counters(ids []core.ID, into []core.Counter) error {
	return d.n.Engine.Counters(ids, into)
}
func (d nodeData) Reports(func(core.Reported)) {}
func (d nodeData) Close() error                { return nil }
