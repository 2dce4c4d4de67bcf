package ipsec

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
)

// dataPair is both directions of one DataSA.
type dataPair struct {
	handle       uint32
	in           *inbound
	out          *outbound
	opens, seals lender
	former       *dataPair // what it replaced, and packets are still opened with; nil = none. Data.mu guards it
}

// table finds pairs. Readers take no lock: each piece is a map that never changes, and is replaced.
type table [4096]atomic.Pointer[map[uint32]*dataPair]

func (t *table) get(n uint32) *dataPair {
	if m := t[n%uint32(len(t))].Load(); m != nil {
		return (*m)[n]
	}
	return nil
}

// set replaces an entry, or removes it if p is nil. The owner's lock is held.
func (t *table) set(n uint32, p *dataPair) {
	piece := &t[n%uint32(len(t))]
	m := map[uint32]*dataPair{}
	if old := piece.Load(); old != nil {
		for k, v := range *old {
			m[k] = v
		}
	}
	if m[n] = p; p == nil {
		delete(m, n)
	}
	piece.Store(&m)
}

func (t *table) each(f func(*dataPair)) {
	for i := range t {
		if m := t[i].Load(); m != nil {
			for _, p := range *m {
				f(p)
			}
		}
	}
}

// Add puts associations in use, all or none. It waits until the first numbers of static keys are reserved.
func (d *Data) Add(sas ...DataSA) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []*dataPair
	var wait []*outbound
	handles, spis := map[uint32]bool{}, map[uint32]bool{}
	for _, sa := range sas {
		fail := func(err error) error {
			return fmt.Errorf("data association %d of %s: %w", sa.Handle, sa.Peer, err)
		}
		switch {
		case sa.Handle == 0:
			return fail(errors.New("0 is no handle"))
		case handles[sa.Handle] || d.table.get(sa.Handle) != nil:
			return fail(errors.New("there is one already"))
		case sa.SPIIn&DataSPI == 0:
			return fail(errSPI(sa.SPIIn))
		case spis[sa.SPIIn] || d.spis.get(sa.SPIIn) != nil:
			return fail(fmt.Errorf("inbound SPI %#x is taken", sa.SPIIn))
		}
		handles[sa.Handle], spis[sa.SPIIn] = true, true
		p, err := d.newPair(sa)
		if err != nil {
			return fail(err)
		}
		all = append(all, p)
		if p.out.durable {
			wait = append(wait, p.out)
		}
	}
	if err := reserve(wait, d.counters); err != nil {
		return err
	}
	for _, p := range all {
		d.use(p)
	}
	return nil
}

func (d *Data) newPair(sa DataSA) (*dataPair, error) {
	in, out, err := newPair(SA{Use: Payload, SPIIn: sa.SPIIn, SPIOut: sa.SPIOut, Keys: sa.Keys, Negotiated: sa.Negotiated, ESN: sa.ESN}, d.counters)
	if err != nil {
		return nil, err
	}
	out.block = dataBlock
	who := &peer{Peer: Peer{Name: sa.Peer}}
	in.use, in.peer, out.use, out.peer = Payload, who, Payload, who
	p := &dataPair{handle: sa.Handle, in: in, out: out}
	return p, errors.Join(p.opens.init(sa.Keys.Suite, sa.Keys.In, sa.ESN), p.seals.init(sa.Keys.Suite, sa.Keys.Out, sa.ESN))
}

// Rekey gives an association that is in use other keys and SPIs: from now on packets are sealed with these, and opened with both
// until Retire, so that no packet on its way is lost. What a former Rekey left is retired.
func (d *Data) Rekey(sa DataSA) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	fail := func(err error) error {
		return fmt.Errorf("data association %d of %s: new keys: %w", sa.Handle, sa.Peer, err)
	}
	old := d.table.get(sa.Handle)
	switch {
	case old == nil:
		return fail(errors.New("there is no such association"))
	case sa.SPIIn&DataSPI == 0:
		return fail(errSPI(sa.SPIIn))
	case d.spis.get(sa.SPIIn) != nil:
		return fail(fmt.Errorf("inbound SPI %#x is taken", sa.SPIIn))
	}
	p, err := d.newPair(sa)
	if err == nil && p.out.durable {
		err = reserve([]*outbound{p.out}, d.counters)
	}
	if err != nil {
		return fail(err)
	}
	numbers := d.retire(old)
	p.former = old
	d.use(p)
	return storeAll(d.counters, append(numbers, old.out.last()))
}

// Retire opens no more packets with the keys that Rekey replaced. It is no error if there are none.
func (d *Data) Retire(handle uint32) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.table.get(handle)
	if p == nil {
		return fmt.Errorf("no data association %d", handle)
	}
	return storeAll(d.counters, d.retire(p))
}

// retire ends what p replaced, and gives what is to be stored of it. The lock is held.
func (d *Data) retire(p *dataPair) []*store {
	old := p.former
	if old == nil {
		return nil
	}
	p.former = nil
	d.drop(old)
	return []*store{old.in.last()}
}

// Remove ends an association: what comes by it is unknown from now on. Of static keys it stores the last numbers, and waits.
func (d *Data) Remove(handle uint32) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.table.get(handle)
	if p == nil {
		return fmt.Errorf("no data association %d", handle)
	}
	d.table.set(handle, nil)
	d.drop(p)
	return storeAll(d.counters, append(d.retire(p), p.out.last(), p.in.last()))
}

// use makes p what its handle means. The lock is held.
func (d *Data) use(p *dataPair) {
	d.spis.set(p.in.spi, p)
	d.outsMu.Lock()
	d.outs[p.out.spi] = append(d.outs[p.out.spi], p.out)
	d.outsMu.Unlock()
	d.table.set(p.handle, p)
}

// drop opens nothing with p any more. The lock is held.
func (d *Data) drop(p *dataPair) {
	d.spis.set(p.in.spi, nil)
	d.outsMu.Lock()
	defer d.outsMu.Unlock()
	rest := slices.DeleteFunc(d.outs[p.out.spi], func(o *outbound) bool { return o == p.out })
	if d.outs[p.out.spi] = rest; len(rest) == 0 {
		delete(d.outs, p.out.spi)
	}
}

func errSPI(spi uint32) error {
	return fmt.Errorf("inbound SPI %#x: those of data begin at %#x", spi, DataSPI)
}
