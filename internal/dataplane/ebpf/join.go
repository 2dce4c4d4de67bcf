package ebpf

import (
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kedge/internal/dataplane"
	"kedge/internal/system/ethtool"
)

// What leaves a tunnel in single segments of TCP is put together again before it goes on, as drivers of network cards do with what
// they receive (GRO), but not with what is in UDP. The kernel has no call for that. So such segments take the way by the joiner: a pair
// of veth in this namespace, whose far end aggregates what the near one could not have sent in one piece, and has a program that sends
// it on. See joins in bpf/tunnel.h for what goes there.

// joiner is the pair of one plane.
type joiner struct {
	near, far string // names of its ends
	alias     string
	in, out   int       // indices of the ends while they are as they must be, else 0
	lacking   error     // why there is none; nil = there is, or nobody has tried
	again     time.Time // when the next try is
}

// tryAgain is how long what could not be made is left alone.
const tryAgain = time.Minute

// joinerOf gives the joiner of a plane.
func joinerOf(role dataplane.Role, name string) joiner {
	h := fnv.New32a()
	fmt.Fprintf(h, "%d %s", role, name)
	s := fmt.Sprintf("kedge-%05x", h.Sum32()&0xfffff)
	return joiner{near: s + "-in", far: s + "-out", alias: strings.TrimSpace("kedge "+name) + ": what left tunnels in segments (GRO)"}
}

var joinerName = regexp.MustCompile(`^kedge-[0-9a-f]{5}-(in|out)$`)

// find gives the pair out of the interfaces that are there; nil if it is not whole, or not up.
func (j *joiner) find(all []netlink.Link) (near, far netlink.Link) {
	for _, l := range all {
		switch l.Attrs().Name {
		case j.near:
			near = l
		case j.far:
			far = l
		}
	}
	if near == nil || far == nil || near.Type() != "veth" || near.Attrs().ParentIndex != far.Attrs().Index || !up(near) || !up(far) {
		return nil, nil
	}
	return near, far
}

func up(l netlink.Link) bool { return l.Attrs().RawFlags&unix.IFF_UP != 0 }

// look finds the pair, and reports whether it is as it must be. One that was is not looked into again.
func (j *joiner) look(all []netlink.Link) bool {
	near, far := j.find(all)
	if near == nil || near.Attrs().Index != j.in && !right(near, far) {
		j.in, j.out = 0, 0
		return false
	}
	j.in, j.out, j.lacking = near.Attrs().Index, far.Attrs().Index, nil
	return true
}

// right reports whether a pair has been made to the end, and nobody has changed it since.
func right(near, far netlink.Link) bool {
	of, err := ethtool.Active(near.Attrs().Name)
	if err != nil || slices.ContainsFunc(ethtool.TCPSegmentation, func(f string) bool { return of[f] }) {
		return false
	}
	of, err = ethtool.Active(far.Attrs().Name)
	return err == nil && of[ethtool.ReceiveAggregation] && far.Attrs().NumRxQueues == queues() && near.Attrs().NumTxQueues == queues()
}

// queues is how many a joiner has: each processor aggregates on its own.
func queues() int { return ebpf.MustPossibleCPU() }

// make makes the pair, in place of what there is of one.
func (j *joiner) make(nl *netlink.Handle) (err error) {
	if err := j.remove(nl); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("data plane: pair of veth %s, %s: %w", j.near, j.far, err)
			_ = j.remove(nl)
		}
	}()
	const mtu = 65535 // whatever a link that tunnels come by carries
	n := queues()
	err = nl.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: j.near, MTU: mtu, NumTxQueues: n, NumRxQueues: n},
		PeerName:  j.far, PeerMTU: mtu, PeerNumTxQueues: uint32(n), PeerNumRxQueues: uint32(n),
	})
	if err != nil {
		return err
	}
	if version := kernelVersion(); before513(version) { // there the switch does nothing
		return &Unsupported{"receive aggregation of veth (Linux 5.13)", version, errors.ErrUnsupported}
	}
	err = errors.Join(ethtool.Set(j.near, false, ethtool.TCPSegmentation...), ethtool.Set(j.far, true, ethtool.ReceiveAggregation))
	var ends []netlink.Link
	for _, name := range []string{j.near, j.far} {
		// It is no link for anybody to have addresses on. In a container that cannot be said, and the program drops what the kernel sends.
		_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0)
		l, e := nl.LinkByName(name)
		if e == nil {
			ends, e = append(ends, l), nl.LinkSetAlias(l, j.alias)
		}
		err = errors.Join(err, e)
	}
	// Up at last: what is not, is not finished.
	for _, l := range ends {
		if err == nil {
			err = nl.LinkSetUp(l)
		}
	}
	return err
}

func before513(version string) bool {
	var major, minor int
	_, err := fmt.Sscanf(version, "%d.%d", &major, &minor)
	return err == nil && (major < 5 || major == 5 && minor < 13)
}

// remove takes away what there is of it. What is no veth is somebody else's.
func (j *joiner) remove(nl *netlink.Handle) error {
	for _, name := range []string{j.near, j.far} {
		l, err := nl.LinkByName(name)
		if errors.As(err, new(netlink.LinkNotFoundError)) || err == nil && l.Type() != "veth" {
			continue
		}
		if err == nil {
			err = nl.LinkDel(l)
		}
		if err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("data plane: interface %s: %w", name, err)
		}
	}
	return nil
}

// join keeps the joiner, and gives the interfaces that are there then. Programs that sent by one that is gone hear of it first.
func (p *Plane) join(all []netlink.Link) ([]netlink.Link, error) {
	j := &p.joiner
	if p.cfg.NoJoin || j.look(all) {
		return all, nil
	}
	atomic.StoreUint32(&p.k.control.join, 0)
	if time.Now().Before(j.again) {
		return all, nil
	}
	j.lacking = j.make(p.nl)
	all, err := interfaces(p.nl.LinkList)
	if err != nil {
		return nil, err
	}
	if j.lacking == nil && !j.look(all) {
		j.lacking = errors.New("data plane: a pair of veth does not stay as it was made")
	}
	if j.lacking != nil {
		j.again = time.Now().Add(tryAgain)
	}
	return all, nil
}

// tellJoiner lets the programs send by the joiner as soon as its own is there.
func (p *Plane) tellJoiner() {
	index := uint32(0)
	if p.joiner.out != 0 && p.hooks[place{p.joiner.out, false}] != nil {
		index = uint32(p.joiner.in)
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
