package ebpf

import (
	"errors"
	"fmt"
	"sync"

	"github.com/cilium/ebpf"
)

// pool keeps programs that were loaded for planes of tests which have closed: for the verifier to look at them takes longer than most tests.
type pool struct {
	mu   sync.Mutex // guards idle
	idle map[string][]*collection
}

var loaded = pool{idle: map[string][]*collection{}}

// take gives programs with empty tables.
func (p *pool) take(c *Config) (*collection, error) {
	if c.Pin != "" {
		return load(c)
	}
	name := fmt.Sprint(c.Role, c.Domain, c.fakeClock, c.LocalRouting, c.EncapsulationLimit != 0, c.Probe.Cross() == nil, c.Sessions, c.Keys, c.Pairs, c.Correspondents)
	p.mu.Lock()
	defer p.mu.Unlock()
	if l := p.idle[name]; len(l) > 0 {
		p.idle[name] = l[:len(l)-1]
		return l[len(l)-1], nil
	}
	k, err := load(c)
	if err != nil {
		return nil, err
	}
	k.closed = func() {
		if k.clear() != nil {
			return // another one is loaded next time
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.idle[name] = append(p.idle[name], k)
	}
	return k, nil
}

// clear makes tables what they are when they were made. What programs remember of ways is by names that no other plane gives.
func (k *collection) clear() (err error) {
	mask := k.control.peersMask
	for _, b := range k.memory {
		clear(b)
	}
	k.control.peersMask = mask
	for name, m := range k.all {
		switch {
		case name == "talked":
			for i := range m.MaxEntries() {
				err = errors.Join(err, m.Update(i, uint32(0), ebpf.UpdateAny))
			}
		case name == "limits" || name == "budget" || name == "drops":
			for i := range m.MaxEntries() {
				var zero any = uint64(0)
				if m.Type() == ebpf.PerCPUArray {
					zero = make([]uint64, ebpf.MustPossibleCPU())
				}
				err = errors.Join(err, m.Update(i, zero, ebpf.UpdateAny))
			}
		case m.Type() == ebpf.Hash:
			key := make([]byte, m.KeySize())
			for m.NextKey(nil, &key) == nil {
				err = errors.Join(err, m.Delete(key))
			}
		}
	}
	return err
}
