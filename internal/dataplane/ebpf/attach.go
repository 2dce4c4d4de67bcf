package ebpf

import (
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kedge/internal/dataplane"
)

// place is where a program is attached.
type place struct {
	index  int
	egress bool
}

// hook is one attached program. Its link must be kept: what nobody holds is closed, and so detached.
type hook struct {
	name string // of the interface
	prog string
	tcx  link.Link       // nil = clsact
	dev  netlink.Link    // of clsact, as what follows
	prio uint16          // of the classifier
	own  *netlink.Clsact // that was made here
}

// filterName begins the names of the classifiers of this package among others of a clsact; that of the plane follows.
const filterName = "kedge"

// A role's classifiers have priorities of its own, so that roles on one interface have an order, and each plane one of those: which
// one, its name says, and then what others have taken.
const (
	firstPriority = 0x4000
	priorities    = 0x1000 // of each role
)

func nameOfFilter(name string) string { return strings.TrimSpace(filterName + " " + name) }

// ownFilter reports whether a classifier is that of a plane.
func ownFilter(f netlink.Filter, role dataplane.Role, name string) bool {
	b, ok := f.(*netlink.BpfFilter)
	return ok && b.Name == nameOfFilter(name) && (b.Priority-firstPriority)/priorities == uint16(role)
}

// choose gives the priority of a plane's classifier among those of others: that which it has, or a free one.
func choose(all []netlink.Filter, role dataplane.Role, name string) (prio uint16, has bool) {
	taken := map[uint16]bool{}
	for _, f := range all {
		if ownFilter(f, role, name) {
			return f.Attrs().Priority, true
		}
		taken[f.Attrs().Priority] = true
	}
	h := fnv.New32a()
	h.Write([]byte(name))
	for i := range uint32(priorities) {
		prio = firstPriority + uint16(role)*priorities + uint16((h.Sum32()+i)%priorities)
		if !taken[prio] {
			break
		}
	}
	return prio, false
}

// wants is what belongs on an interface: "" = nothing.
func (p *Plane) wants(l netlink.Link) (prog string, egress bool) {
	a := l.Attrs()
	if a.Index == p.joiner.out {
		return "joined", false
	}
	if a.Name == p.Device() && p.cfg.Role != dataplane.Gateway {
		return "device", true
	}
	for _, acc := range p.cfg.Access {
		if acc.Name == a.Name {
			return "access", false
		}
	}
	// Frames on a port of a bridge are the bridge's, those of another plane's joiner its.
	if joinerName.MatchString(a.Name) || a.EncapType != "ether" || a.MasterIndex != 0 || a.Name == p.Device() {
		return "", false
	}
	for _, pattern := range p.cfg.Core {
		if ok, _ := path.Match(pattern, a.Name); ok {
			return "core", false
		}
	}
	if len(p.cfg.Core) == 0 {
		return "core", false
	}
	return "", false
}

// interfaces lists them. A list that changes went through while it was made may lack some, so it is made again.
func interfaces(list func() ([]netlink.Link, error)) (all []netlink.Link, err error) {
	for range 10 {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("data plane: interfaces: %w", err)
	}
	return all, nil
}

// reconcile attaches what belongs on the interfaces that are there, and forgets those that went. The calling thread is in their
// namespace.
func (p *Plane) reconcile() error {
	all, err := interfaces(p.nl.LinkList)
	if err != nil {
		return err
	}
	p.attaching.Lock()
	defer p.attaching.Unlock()
	if all, err = p.join(all); err != nil {
		return err
	}
	var errs []error
	there := map[place]bool{}
	byName := map[string]netlink.Link{}
	for _, l := range all {
		a := l.Attrs()
		byName[a.Name] = l
		prog, egress := p.wants(l)
		if prog == "" {
			continue
		}
		at := place{a.Index, egress}
		there[at] = true
		if h := p.hooks[at]; h != nil && h.prog == prog && p.holds(l, egress, h) {
			h.name = a.Name
			continue
		} else if h != nil {
			p.detach(at, h)
		}
		h, err := p.attach(l, prog, egress)
		if err != nil && prog == "joined" {
			p.joiner.lacking = err // all goes on without
			continue
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("data plane: %s: %w", a.Name, err))
			continue
		}
		p.hooks[at] = h
	}
	for at, h := range p.hooks {
		if !there[at] {
			p.detach(at, h)
		}
	}
	p.tellJoiner()
	tun := uint32(0)
	if l := byName[p.Device()]; l != nil && p.cfg.Role != dataplane.Gateway {
		tun = uint32(l.Attrs().Index)
	}
	atomic.StoreUint32(&p.k.control.tun, tun)
	for i, acc := range p.cfg.Access {
		if i+1 >= maxLinks {
			break // the others' sessions have no link here: the daemon forwards them
		}
		r, index, mtu := &p.k.links[i+1], uint32(0), acc.MTU
		if l := byName[acc.Name]; l != nil {
			index = uint32(l.Attrs().Index)
			if mtu == 0 {
				mtu = l.Attrs().MTU
			}
		}
		r.mac = acc.MAC
		atomic.StoreUint32(&r.mtu, uint32(mtu))
		atomic.StoreUint32(&r.ifindex, index)
	}
	return errors.Join(errs...)
}

func (p *Plane) program(name string) *ebpf.Program { return p.k.programs[name] }

func (p *Plane) attach(l netlink.Link, prog string, egress bool) (*hook, error) {
	if p.tcx {
		return p.attachTCX(l, prog, egress)
	}
	return p.attachClsact(l, prog, egress)
}

// attachTCX takes over a pinned link, whose program it changes in one step, or makes one.
func (p *Plane) attachTCX(l netlink.Link, prog string, egress bool) (*hook, error) {
	a := l.Attrs()
	h := &hook{name: a.Name, prog: prog}
	pinned := p.linkPin(place{a.Index, egress}, prog)
	if p.cfg.Pin != "" {
		if old, err := link.LoadPinnedLink(pinned, nil); err == nil {
			info, err := old.Info()
			if err == nil && info.TCX() != nil && int(info.TCX().Ifindex) == a.Index && old.Update(p.program(prog)) == nil {
				h.tcx = old
				return h, nil
			}
			old.Close()
			_ = os.Remove(pinned) // of an interface that went
		}
	}
	kind := ebpf.AttachTCXIngress
	if egress {
		kind = ebpf.AttachTCXEgress
	}
	var err error
	h.tcx, err = link.AttachTCX(link.TCXOptions{Interface: a.Index, Program: p.program(prog), Attach: kind})
	if err == nil && p.cfg.Pin != "" {
		if err = h.tcx.Pin(pinned); err != nil {
			h.tcx.Close()
		}
	}
	if err != nil {
		return nil, err
	}
	return h, nil
}

// holds reports whether a hook is still on its interface: another program may have detached it, or removed the clsact with all that is in it.
func (p *Plane) holds(l netlink.Link, egress bool, h *hook) bool {
	if h.tcx != nil {
		info, err := h.tcx.Info()
		return err == nil && info.TCX() != nil && int(info.TCX().Ifindex) == l.Attrs().Index
	}
	all, err := p.nl.FilterList(l, parentOf(egress))
	if err != nil {
		return errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENOBUFS) // the next look sees
	}
	return slices.ContainsFunc(all, func(f netlink.Filter) bool {
		return f.Attrs().Priority == h.prio && ownFilter(f, p.cfg.Role, p.cfg.Name)
	})
}

// pinLink and pinJoiner begin the names of links' pins. A joiner's is no sign that anything is forwarded.
const (
	pinLink   = "link-"
	pinJoiner = "joiner-"
)

func (p *Plane) linkPin(at place, prog string) string {
	kind, way := pinLink, "ingress"
	if prog == "joined" {
		kind = pinJoiner
	}
	if at.egress {
		way = "egress"
	}
	return filepath.Join(p.cfg.Pin, layout, fmt.Sprintf("%s%d-%s", kind, at.index, way))
}

// attachClsact makes a classifier with direct action, or changes the program of a former process's.
func (p *Plane) attachClsact(l netlink.Link, prog string, egress bool) (*hook, error) {
	h := &hook{name: l.Attrs().Name, prog: prog, dev: l}
	q := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
	switch err := p.nl.QdiscAdd(q); {
	case err == nil:
		h.own = q
	case !errors.Is(err, unix.EEXIST):
		return nil, fmt.Errorf("clsact: %w", err)
	}
	err := error(unix.EEXIST)
	for try := 0; try < 3 && errors.Is(err, unix.EEXIST); try++ { // another process may take the same priority at the same time
		var all []netlink.Filter
		if all, err = p.nl.FilterList(l, parentOf(egress)); err != nil {
			break
		}
		set, has := p.nl.FilterAdd, false
		if h.prio, has = choose(all, p.cfg.Role, p.cfg.Name); has {
			set = p.nl.FilterReplace
		}
		err = set(p.filter(l, h, egress))
	}
	if err != nil {
		return nil, fmt.Errorf("classifier: %w", err)
	}
	return h, nil
}

func parentOf(egress bool) uint32 {
	if egress {
		return netlink.HANDLE_MIN_EGRESS
	}
	return netlink.HANDLE_MIN_INGRESS
}

func (p *Plane) filter(l netlink.Link, h *hook, egress bool) *netlink.BpfFilter {
	return &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: l.Attrs().Index, Parent: parentOf(egress), Handle: 1, Priority: h.prio, Protocol: unix.ETH_P_ALL},
		Fd:          p.program(h.prog).FD(), Name: nameOfFilter(p.cfg.Name), DirectAction: true,
	}
}

// detach ends a hook. Its interface may be gone.
func (p *Plane) detach(at place, h *hook) {
	delete(p.hooks, at)
	if h.tcx != nil {
		if p.cfg.Pin != "" {
			_ = os.Remove(p.linkPin(at, h.prog))
		}
		h.tcx.Close()
		return
	}
	_ = p.nl.FilterDel(p.filter(h.dev, h, at.egress))
	if h.own != nil {
		if others, err := p.filters(h.dev); err == nil && others == 0 {
			_ = p.nl.QdiscDel(h.own)
		}
	}
}

// filters counts what is left on a clsact.
func (p *Plane) filters(l netlink.Link) (n int, err error) {
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		all, err := p.nl.FilterList(l, parent)
		if err != nil {
			return 0, err
		}
		n += len(all)
	}
	return n, nil
}

// forget removes the pins of links that nobody took over: their interfaces went, or belong to nobody's pattern now.
func (p *Plane) forget() {
	if p.cfg.Pin == "" {
		return
	}
	dir := filepath.Join(p.cfg.Pin, layout)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	p.attaching.Lock()
	defer p.attaching.Unlock()
	mine := map[string]bool{}
	for at, h := range p.hooks {
		mine[p.linkPin(at, h.prog)] = h.tcx != nil
	}
	for _, e := range entries {
		if name := filepath.Join(dir, e.Name()); (strings.HasPrefix(e.Name(), pinLink) || strings.HasPrefix(e.Name(), pinJoiner)) && !mine[name] {
			_ = os.Remove(name)
		}
	}
}
