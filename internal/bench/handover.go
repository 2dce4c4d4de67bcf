package bench

import (
	"context"
	"time"

	"kedge/internal/bench/peer"
	"kedge/internal/bench/traffic"
	"kedge/internal/bench/way"
)

// handoverEvery is the time between two handovers of a sample.
const handoverEvery = 50 * time.Millisecond

// measureHandover sends one stream without and one with handovers between two gateways: the anchor is told that the session has
// moved, and the next packet goes there.
func measureHandover(ctx context.Context, b *bed, m *meter) ([]float64, error) {
	if _, err := b.ready(ctx, small); err != nil {
		return nil, err
	}
	still, err := b.stream(ctx, m.time, false)
	if err != nil {
		return nil, err
	}
	moving, err := b.stream(ctx, m.time, true)
	return []float64{still, moving}, err
}

// stream is how many packets of it are lost; less than 0 = more arrived than were sent.
func (b *bed) stream(ctx context.Context, d time.Duration, moving bool) (lost float64, err error) {
	u, err := b.udp(small)
	if err != nil {
		return 0, err
	}
	type result struct {
		p   traffic.Probe
		err error
	}
	done := make(chan result, 1)
	go func() {
		p, err := u.Send(ctx, handoverRate, d, nil)
		done <- result{p, err}
	}()
	t := time.NewTicker(handoverEvery)
	defer t.Stop()
	at := way.Gateway
	move := func(to way.Side) {
		at = to
		if _, e := b.peers[anchor].Ask(peer.Request{Handover: &at}); e != nil {
			err = e
		}
	}
	for {
		select {
		case <-t.C:
			if moving && err == nil {
				move(way.Second - at)
			}
		case r := <-done:
			if at != way.Gateway {
				move(way.Gateway)
			}
			if err == nil {
				err = r.err
			}
			return float64(r.p.Sent) - float64(r.p.Received), err
		}
	}
}
