package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"

	"kedge/internal/bench/cpu"
	"kedge/internal/bench/peer"
)

// Run measures and judges. It tells about its progress on log. The machine's own network is not touched, and nothing is left when
// it returns or dies. It needs root.
func Run(ctx context.Context, o Options, log io.Writer) (_ *Report, err error) {
	p, err := o.plan()
	if err != nil {
		return nil, err
	}
	if len(p.cells) == 0 {
		return nil, fmt.Errorf("nothing to measure is named like %q", o.Cells)
	}
	// Threads of traffic sit in system calls, and must keep nobody waiting for a processor.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(runtime.NumCPU() + 8))
	favour()
	m := &meter{time: o.Time, cpu: cpu.Open()}
	defer m.cpu.Close()
	r, say := newReport(o, p, m.cpu.Lacking()), newProgress(log)
	beds, err := openBeds(ctx, p, r, say)
	defer func() {
		say.end()
		for _, b := range beds {
			b.close()
		}
	}()
	if err != nil {
		return nil, err
	}
	if err := rounds(ctx, o, p, beds, m, r, say); err != nil {
		return nil, err
	}
	r.judge()
	return r, nil
}

// openBeds builds all ways. One of Kedge that this machine or version cannot carry is noted and left out.
func openBeds(ctx context.Context, p plan, r *Report, say *progress) (beds []*bed, err error) {
	for _, w := range p.ways {
		say.say("build %s", w.Name())
		b, err := openBed(ctx, w)
		switch {
		case ctx.Err() != nil:
			if b != nil {
				b.close()
			}
			return beds, ctx.Err()
		case err != nil && w.Kedge():
			r.note("%v", err)
			continue
		case err != nil:
			return beds, err
		}
		if w.Fast() && w.Sessions > 1 {
			a, err := b.peers[anchor].Ask(peer.Request{Memory: true})
			if err != nil {
				b.close()
				return beds, err
			}
			r.Memory = append(r.Memory, Memory{Way: w.Name(), Sessions: w.Sessions, Octets: a.Octets})
		}
		b.freeze(true)
		beds = append(beds, b)
		r.Ways = append(r.Ways, w)
	}
	if len(beds) == 0 {
		return beds, errors.New("no way can be measured here")
	}
	return beds, nil
}

// rounds measures everything once in each round, the ways of a cell one after the other in random order.
func rounds(ctx context.Context, o Options, p plan, beds []*bed, m *meter, r *Report, say *progress) error {
	order := rand.New(rand.NewPCG(o.Seed, 1))
	total := 0
	for _, c := range p.cells {
		for _, b := range beds {
			if c.on(b.way) {
				total += o.Pairs
			}
		}
	}
	say.begin(total)
	for round := range o.Pairs {
		for _, c := range p.cells {
			for _, i := range order.Perm(len(beds)) {
				b := beds[i]
				if !c.on(b.way) {
					continue
				}
				say.step("round %d of %d: %s of %s", round+1, o.Pairs, c.columns[0].Name, b.way.Name())
				values, slow, err := sample(ctx, c, b, m)
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if err != nil {
					r.note("%s of %s, round %d: %v", c.columns[0].Name, b.way.Name(), round+1, err)
					values = nil
				}
				r.add(b.way, c, values, slow)
			}
		}
	}
	return nil
}

// sample measures a way once, with its processes running meanwhile only. slow is which part of the packets of a way of the kernel
// was not carried there.
func sample(ctx context.Context, c cell, b *bed, m *meter) (values []float64, slow float64, err error) {
	b.freeze(false)
	defer b.freeze(true)
	if err := b.begin(); err != nil {
		return nil, 0, err
	}
	values, err = c.measure(ctx, b, m)
	if err != nil || values == nil || c.columns[0].Name == colUpdates {
		return values, 0, err
	}
	slow, err = b.verify()
	return values, slow, err
}

// favour puts this process, and those that it starts, before others of the machine.
func favour() {
	const niceness = -15
	tasks, _ := os.ReadDir("/proc/self/task")
	for _, t := range tasks {
		if id, err := strconv.Atoi(t.Name()); err == nil {
			_ = unix.Setpriority(unix.PRIO_PROCESS, id, niceness)
		}
	}
}
