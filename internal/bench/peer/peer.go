// Package peer runs the two ends of a tunnel, each as a process in its namespace: a plane of Kedge made by its Go interface, or a
// device of wireguard-go. No signalling is involved. The parent writes requests to its standard input, one JSON value a line, and
// reads answers; when the input ends, so does the process.
package peer

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"

	"kedge/internal/bench/network"
	"kedge/internal/bench/way"
	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/internal/dataplane/ebpf"
	"kedge/internal/dataplane/user"
	"kedge/wire"
)

// Request to a peer: one of its parts is set.
type Request struct {
	Open  *Open  `json:"open,omitempty"`
	Count bool   `json:"count,omitempty"`
	Load  *Range `json:"load,omitempty"`
}

// Open makes the end.
type Open struct {
	Way       way.Way `json:"way"`
	Anchor    bool    `json:"anchor"`
	WireGuard string  `json:"wireguard,omitempty"` // configuration, in its own protocol
}

// Range of sessions, To excluded.
type Range struct{ From, To int }

// Answer of a peer.
type Answer struct {
	Error string            `json:"error,omitempty"`
	Count core.Counter      `json:"count"`           // of all sessions
	Slow  core.Counter      `json:"slow"`            // of them not in the kernel
	Drops map[string]uint64 `json:"drops,omitempty"` // by reason
}

type end struct {
	open   Open
	encap  way.Encap
	plane  core.Dataplane
	ebpf   *ebpf.Plane
	drops  func(func(wire.Reason, uint64))
	wg     *device.Device
	access int
	ids    []core.ID
}

// Run serves requests until in ends.
func Run(in io.Reader, out io.Writer) error {
	e := &end{}
	defer e.close()
	enc := json.NewEncoder(out)
	for dec := json.NewDecoder(bufio.NewReader(in)); ; {
		var r Request
		if err := dec.Decode(&r); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("request: %w", err)
		}
		var a Answer
		if err := e.serve(r, &a); err != nil {
			a.Error = err.Error()
		}
		if err := enc.Encode(a); err != nil {
			return err
		}
	}
}

func (e *end) serve(r Request, a *Answer) error {
	switch {
	case r.Open != nil:
		e.open = *r.Open
		if e.open.Way.Kedge() {
			return e.openPlane()
		}
		return e.openWireGuard()
	case r.Load != nil:
		return e.load(*r.Load)
	case r.Count && e.plane != nil:
		return e.count(a)
	}
	return nil
}

func (e *end) openPlane() (err error) {
	w := e.open.Way
	var ok bool
	if e.encap, ok = way.FindEncap(w.Encap); !ok {
		return fmt.Errorf("no encapsulation %q", w.Encap)
	}
	cfg := user.Config{Role: dataplane.Anchor, Device: network.Device, Local: []netip.Addr{way.Anchor6, way.Anchor4}}
	if !e.open.Anchor {
		i, err := net.InterfaceByName(network.AccessLink)
		if err != nil {
			return err
		}
		e.access = i.Index
		cfg.Role, cfg.Local = dataplane.Gateway, []netip.Addr{way.Gateway6, way.Gateway4}
		cfg.Access = []dataplane.Link{{Name: network.AccessLink, MAC: way.RouterMAC, LinkLocal: way.Access6}}
	}
	n := max(1, w.Sessions)
	if w.Kind == way.User {
		p, err := user.New(cfg)
		if err != nil {
			return err
		}
		e.plane, e.drops = p, p.Drops
	} else {
		p, err := ebpf.New(ebpf.Config{Config: cfg, Core: []string{network.CoreLink, network.NetLink}, Sessions: n, Keys: 2*n + 64, Clsact: w.Kind == way.Clsact, Hold: time.Hour})
		if err != nil {
			return err
		}
		e.plane, e.ebpf, e.drops = p, p, p.Drops
	}
	return e.load(Range{1, n + 1})
}

// chunk is how many sessions are made by one update.
const chunk = 1 << 14

func (e *end) load(r Range) error {
	for from := r.From; from < r.To; from += chunk {
		to := min(r.To, from+chunk)
		if err := e.plane.Update(e.encap.Ops(e.open.Anchor, from, to, e.access)); err != nil {
			return err
		}
		for i := from; i < to; i++ {
			e.ids = append(e.ids, core.ID(i))
		}
	}
	return nil
}

func (e *end) count(a *Answer) error {
	counters := make([]core.Counter, len(e.ids))
	sum := func(into *core.Counter) {
		for _, c := range counters {
			into.PacketsIn, into.PacketsOut = into.PacketsIn+c.PacketsIn, into.PacketsOut+c.PacketsOut
			into.OctetsIn, into.OctetsOut = into.OctetsIn+c.OctetsIn, into.OctetsOut+c.OctetsOut
		}
	}
	if err := e.plane.Counters(e.ids, counters); err != nil {
		return err
	}
	sum(&a.Count)
	a.Slow = a.Count
	if e.ebpf != nil {
		if err := e.ebpf.Plane.Counters(e.ids, counters); err != nil {
			return err
		}
		a.Slow = core.Counter{}
		sum(&a.Slow)
	}
	a.Drops = map[string]uint64{}
	e.drops(func(r wire.Reason, n uint64) {
		if n > 0 {
			a.Drops[string(r)] = n
		}
	})
	return nil
}

func (e *end) openWireGuard() error {
	t, err := tun.CreateTUN(network.WireGuard, network.MTU)
	if err != nil {
		return err
	}
	e.wg = device.NewDevice(t, conn.NewDefaultBind(), device.NewLogger(device.LogLevelError, "wireguard-go: "))
	if err := e.wg.IpcSet(e.open.WireGuard); err != nil {
		return err
	}
	return e.wg.Up()
}

func (e *end) close() {
	if e.plane != nil {
		_ = e.plane.Close()
	}
	if e.wg != nil {
		e.wg.Close()
	}
}
