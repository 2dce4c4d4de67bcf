package ipsec

import (
	"cmp"
	"maps"
	"slices"

	"kedge/wire"
)

// Drops counts what was refused since NewData, by reason.
func (d *Data) Drops() map[wire.Reason]uint64 {
	d.tally.mu.Lock()
	defer d.tally.mu.Unlock()
	return maps.Clone(d.tally.drops)
}

// Status lists the associations by handle, each with the name of its peer. It holds no key material.
func (d *Data) Status() []PeerStatus {
	all := d.pairs()
	out := make([]PeerStatus, 0, len(all))
	for _, p := range all {
		out = append(out, PeerStatus{Name: p.in.peer.Name, Protection: ESP, SAs: []SAStatus{p.in.status(), p.out.status()}})
	}
	return out
}

// pairs are all that packets are opened with, by handle.
func (d *Data) pairs() (all []*dataPair) {
	d.spis.each(func(p *dataPair) { all = append(all, p) })
	slices.SortFunc(all, func(a, b *dataPair) int {
		return cmp.Or(cmp.Compare(a.handle, b.handle), cmp.Compare(a.in.spi, b.in.spi))
	})
	return all
}

// Tick stores what is to be stored lazily of static keys. Call it about once a second.
func (d *Data) Tick() {
	now := d.now()
	d.spis.each(func(p *dataPair) {
		p.in.mu.Lock()
		s := p.in.save(now, true)
		p.in.mu.Unlock()
		if s != nil {
			d.counters.Store(s.name, s.n, s.done)
		}
	})
}

// Close stores exactly what was used of static keys, so that the next run skips nothing, and waits for it. They seal
// nothing afterwards; close the sockets first, as what is opened between Close and the end of the program can be replayed.
func (d *Data) Close() error {
	var numbers []*store
	for _, p := range d.pairs() {
		numbers = append(numbers, p.in.last(), p.out.last())
	}
	return storeAll(d.counters, numbers)
}
