package ebpf

import (
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"runtime"
	"strings"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kedge/internal/dataplane"
	"kedge/internal/system/ethtool"
)

// What leaves a tunnel in single segments of TCP is put together again before it goes on, as drivers of network cards do with what
// they receive (GRO), but not with what is in UDP. The kernel has no call for that. So such segments take the way by the joiner: a pair
// of veth in this namespace, whose far end aggregates what the near one could not have sent in one piece, and has a program that sends
// it on. See joins in bpf/tunnel.h for what goes there.

// joiner is the pair.
type joiner struct {
	near, far string
	lacking   error // why there is none; nil = there is, or it is not known yet
}

const (
	joinerName = "kedge-"
	joinerNear = "-in"
	joinerFar  = "-out"
	joinerMTU  = 65535 // of what is put together
)

// mostQueues bounds the queues of a joiner: each processor that has one of its own aggregates beside the others.
const mostQueues = 64

// joinerOf names the joiner of a plane.
func joinerOf(role dataplane.Role, name string) joiner {
	h := fnv.New32a()
	fmt.Fprintf(h, "%d %s", role, name)
	s := fmt.Sprintf(joinerName+"%05x", h.Sum32()&0xfffff)
	return joiner{near: s + joinerNear, far: s + joinerFar}
}

// isJoiner reports whether an interface is of a joiner, this plane's or another one's.
func isJoiner(name string) bool {
	rest, ok := strings.CutPrefix(name, joinerName)
	return ok && (strings.HasSuffix(rest, joinerNear) || strings.HasSuffix(rest, joinerFar))
}

// find gives the pair out of the interfaces that are there; nil if it is not whole.
func (j *joiner) find(all []netlink.Link) (near, far netlink.Link) {
	for _, l := range all {
		switch l.Attrs().Name {
		case j.near:
			near = l
		case j.far:
			far = l
		}
	}
	if near == nil || far == nil || near.Type() != "veth" || near.Attrs().ParentIndex != far.Attrs().Index {
		return nil, nil
	}
	return near, far
}

// ensure makes the pair if it is not there, and lets it carry: changed says that it was not, or did not. What could not be made once is
// not tried again.
func (j *joiner) ensure(nl *netlink.Handle, all []netlink.Link) (changed bool) {
	if j.lacking != nil {
		return false
	}
	near, far := j.find(all)
	if near == nil {
		if j.lacking = j.remove(nl); j.lacking == nil {
			j.lacking = j.make(nl)
		}
		if j.lacking != nil {
			_ = j.remove(nl) // perhaps it is somebody else's
		}
		return true
	}
	for _, l := range []netlink.Link{near, far} {
		if !up(l) {
			changed = true
			_ = nl.LinkSetUp(l) // else nothing is sent there
		}
	}
	return changed
}

func (j *joiner) make(nl *netlink.Handle) error {
	queues := min(runtime.NumCPU(), mostQueues)
	err := nl.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: j.near, MTU: joinerMTU, NumTxQueues: queues, NumRxQueues: queues},
		PeerName:  j.far, PeerMTU: joinerMTU, PeerNumTxQueues: uint32(queues), PeerNumRxQueues: uint32(queues),
	})
	if err != nil {
		return fmt.Errorf("data plane: pair of veth: %w", err)
	}
	had, err := ethtool.Active(j.far)
	if err != nil {
		return fmt.Errorf("data plane: %w", err)
	}
	if had[ethtool.ReceiveAggregation] {
		return &Unsupported{"receive aggregation of veth (Linux 5.13)", kernelVersion(), errors.ErrUnsupported} // there, it is on and does nothing
	}
	err = errors.Join(ethtool.Set(j.near, false, ethtool.TCPSegmentation...), ethtool.Set(j.far, true, ethtool.ReceiveAggregation))
	for _, name := range []string{j.near, j.far} {
		// It is no link for anybody to have addresses on.
		if e := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0); !errors.Is(e, os.ErrNotExist) {
			err = errors.Join(err, e)
		}
		l, e := nl.LinkByName(name)
		if e == nil {
			e = errors.Join(nl.LinkSetAlias(l, "kedge: puts segments together that leave tunnels"), nl.LinkSetUp(l))
		}
		err = errors.Join(err, e)
	}
	if err != nil {
		return fmt.Errorf("data plane: pair of veth: %w", err)
	}
	return nil
}

// remove takes away what there is of it.
func (j *joiner) remove(nl *netlink.Handle) error {
	for _, name := range []string{j.near, j.far} {
		l, err := nl.LinkByName(name)
		if _, none := err.(netlink.LinkNotFoundError); none {
			continue
		}
		if err == nil && l.Type() != "veth" {
			err = fmt.Errorf("it is a %s of somebody else", l.Type())
		}
		if err == nil {
			err = nl.LinkDel(l)
		}
		if err != nil {
			return fmt.Errorf("data plane: interface %s: %w", name, err)
		}
	}
	return nil
}

func up(l netlink.Link) bool { return l.Attrs().RawFlags&unix.IFF_UP != 0 }

// join keeps the joiner, and gives the interfaces that are there then.
func (p *Plane) join(all []netlink.Link) ([]netlink.Link, error) {
	if p.cfg.NoJoin || !p.joiner.ensure(p.nl, all) {
		return all, nil
	}
	all, err := p.nl.LinkList()
	if err != nil {
		return nil, fmt.Errorf("data plane: interfaces: %w", err)
	}
	return all, nil
}

// tellJoiner lets the programs send by the joiner as soon as it carries.
func (p *Plane) tellJoiner(all []netlink.Link) {
	index := uint32(0)
	if near, far := p.joiner.find(all); near != nil && !p.cfg.NoJoin && up(near) && up(far) && p.hooks[place{far.Attrs().Index, false}] != nil {
		index = uint32(near.Attrs().Index)
	}
	atomic.StoreUint32(&p.k.control.join, index)
}

// Unjoin removes the joiners that planes of a name (Config.Name) left in the network namespace of the calling thread.
func Unjoin(name string) error {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("data plane: %w", err)
	}
	defer nl.Close()
	for _, role := range []dataplane.Role{dataplane.Anchor, dataplane.Gateway, dataplane.Node} {
		j := joinerOf(role, name)
		err = errors.Join(err, j.remove(nl))
	}
	return err
}
