package ipsec

import (
	"errors"
	"fmt"
	"time"

	"kedge/internal/core"
)

// check says what is wrong with a pair of associations, whatever it is for.
func (sa *SA) check(counters Counters) error {
	switch {
	case sa.SPIIn < 256 || sa.SPIOut < 256:
		return fmt.Errorf("SPI %d in, %d out: 0 to 255 are reserved (RFC 4303 2.1)", sa.SPIIn, sa.SPIOut)
	case sa.ESN && !sa.Negotiated:
		return errors.New("extended sequence numbers need a key exchange to agree on them (RFC 4303 2.2.1)")
	case !sa.Negotiated && counters == nil:
		return errors.New("static keys need a store for their sequence numbers (RFC 4303 3.3.3)")
	case sa.SPIIn == sa.SPIOut && string(sa.Keys.In.Integrity)+string(sa.Keys.In.Encryption) == string(sa.Keys.Out.Integrity)+string(sa.Keys.Out.Encryption):
		return errors.New("both directions have the same SPI and keys: our own packets sent back to us would pass")
	}
	if !sa.Negotiated {
		return sa.Keys.Check()
	}
	return nil
}

// newPair makes both directions without their transforms. Those of static keys continue where the last run of the program may
// have been.
func newPair(sa SA, counters Counters) (*inbound, *outbound, error) {
	if err := sa.check(counters); err != nil {
		return nil, nil, err
	}
	in := &inbound{spi: sa.SPIIn, suite: sa.Keys.Suite, durable: !sa.Negotiated, esn: sa.ESN, counters: counters,
		at: -time.Second} // the first packet comes after silence, as far as we know
	out := &outbound{spi: sa.SPIOut, suite: sa.Keys.Suite, durable: !sa.Negotiated, limit: 1<<32 - 1, block: Block}
	if sa.ESN {
		out.limit = 1<<64 - 1
	}
	if sa.Negotiated {
		return in, out, nil
	}
	in.name, out.name = counterName("in", sa.SPIIn, sa.Keys.In), counterName("out", sa.SPIOut, sa.Keys.Out)
	n, ok, err := counters.Load(out.name)
	if err != nil {
		return nil, nil, fmt.Errorf("sequence numbers cannot be read: %w", err)
	}
	out.seq, out.reserved, out.found = min(n.High, out.limit), min(n.High, out.limit), ok
	if n, ok, err = counters.Load(in.name); err != nil {
		return nil, nil, fmt.Errorf("sequence numbers cannot be read: %w", err)
	}
	if ok {
		in.win.restore(n.High + n.Slack)
		in.doubt = n
		in.stored, in.found = Numbers{High: in.win.top}, true
	}
	return in, out, nil
}

// reserve asks for the first blocks of all associations at once, so that one commit serves them all, and waits.
func reserve(all []*outbound, counters Counters) error {
	done := make(chan error, len(all))
	asked := 0
	for _, o := range all {
		o.mu.Lock()
		s := o.want(core.Now{})
		o.mu.Unlock()
		if s != nil { // none: every number was used, as status says
			asked++
			counters.Store(s.name, s.n, func(err error) { s.done(err); done <- err })
		}
	}
	var err error
	for range asked {
		err = errors.Join(err, <-done)
	}
	if err != nil {
		return fmt.Errorf("sequence numbers cannot be reserved: %w", err)
	}
	return nil
}

// last is what a clean end stores of static keys: exactly what was used, so that the next run skips nothing. Nothing can be sent
// afterwards. nil if nothing is to be stored.
func (o *outbound) last() *store {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed || !o.durable {
		return nil
	}
	o.closed = true
	return &store{name: o.name, n: Numbers{High: o.seq}}
}

// last is what a clean end stores of static keys: a restart that accepted nothing must not forget the numbers refused before.
func (i *inbound) last() *store {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.durable {
		return nil
	}
	return &store{name: i.name, n: Numbers{High: i.win.top}}
}

// storeAll waits until everything is stored.
func storeAll(counters Counters, numbers []*store) error {
	done := make(chan error, len(numbers))
	asked := 0
	for _, s := range numbers {
		if s != nil {
			asked++
			counters.Store(s.name, s.n, func(err error) { done <- err })
		}
	}
	var err error
	for range asked {
		err = errors.Join(err, <-done)
	}
	return err
}
