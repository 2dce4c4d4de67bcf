// Package peer runs the ends of a tunnel, each as a process in its namespace: a plane of Kedge made by its Go interface, or a
// device of wireguard-go. No signalling is involved. The parent writes requests to its standard input, one JSON value a line, and
// reads answers; when the input ends, so does the process.
package peer

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"golang.zx2c4.com/wireguard/device"

	"kedge/internal/bench/way"
	"kedge/internal/core"
	"kedge/internal/dataplane/ebpf"
	"kedge/wire"
)

// Request to a peer: one of its parts is set.
type Request struct {
	Open     *Open     `json:"open,omitempty"`
	Count    bool      `json:"count,omitempty"`    // counters and drops
	Handover *way.Side `json:"handover,omitempty"` // to an anchor: session 1 moves to this gateway
	Update   int       `json:"update,omitempty"`   // about so many sessions move to another address or back, in batches
	Memory   bool      `json:"memory,omitempty"`
}

// Open makes the end.
type Open struct {
	Way       way.Way  `json:"way"`
	At        way.Side `json:"at"`
	WireGuard string   `json:"wireguard,omitempty"` // configuration, in its own protocol
}

// Answer of a peer.
type Answer struct {
	Error   string            `json:"error,omitempty"`
	Count   core.Counter      `json:"count"`             // of the first sessions, CountOf at most
	Slow    core.Counter      `json:"slow"`              // of them not by programs in the kernel
	Drops   map[string]uint64 `json:"drops,omitempty"`   // by reason
	Seconds float64           `json:"seconds,omitempty"` // that updates took
	Updates int               `json:"updates,omitempty"` // that were made
	Octets  uint64            `json:"octets,omitempty"`  // of memory in the kernel's tables
}

// CountOf is of how many sessions the counters are asked for.
const CountOf = 1 << 12

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
	case r.Open != nil && (e.plane != nil || e.wg != nil):
		return errors.New("there is an end already")
	case r.Open != nil && r.Open.Way.Kedge():
		e.open = *r.Open
		return e.openPlane()
	case r.Open != nil:
		e.open = *r.Open
		return e.openWireGuard()
	case e.plane == nil:
		return errors.New("there is no plane")
	case r.Handover != nil:
		return e.plane.Update([]core.Op{core.SetSession{ID: 1, Chain: e.encap.Chain(way.Anchor, *r.Handover, 1), Grace: way.Grace}})
	case r.Update > 0:
		return e.update(r.Update, a)
	case r.Memory:
		return e.memory(a)
	case r.Count:
		return e.count(a)
	}
	return errors.New("an empty request")
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

func (e *end) close() {
	if e.plane != nil {
		_ = e.plane.Close()
	}
	if e.wg != nil {
		e.wg.Close()
	}
}
