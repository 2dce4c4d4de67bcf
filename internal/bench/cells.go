package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"kedge/internal/bench/cpu"
	"kedge/internal/bench/peer"
	"kedge/internal/bench/traffic"
	"kedge/internal/bench/way"
)

// Column is one figure that a cell gives.
type Column struct {
	Name string `json:"name"` // "tcp6"
	Unit string `json:"unit"`
	Text string `json:"text"`
	Less bool   `json:"less,omitempty"` // less is better
}

// cell is what is measured at a time. A value that is not there is 0.
type cell struct {
	columns []Column
	on      func(way.Way) bool
	measure func(ctx context.Context, b *bed, m *meter) ([]float64, error)
}

// meter is what a measurement needs.
type meter struct {
	time time.Duration
	cpu  *cpu.Meter
}

// Names of columns that others speak of.
const (
	colTCP6     = "tcp6"
	colTCP4     = "tcp4"
	colUDP64    = "udp64"
	colMany     = "udp64-many"
	colUpdates  = "updates"
	colLost     = "lost"
	colHandover = "lost-handover"
)

const (
	small, large = 64, 512 // octets of packets
	handoverRate = 100_000
)

func single(w way.Way) bool { return w.Sessions <= 1 && !w.Second }

// allCells are what there is to measure.
func allCells() (out []cell) {
	for _, cut := range []bool{false, true} {
		for _, streams := range []int{1, 4} {
			for _, six := range []bool{true, false} {
				name, text := colTCP4, "TCP over IPv4"
				if six {
					name, text = colTCP6, "TCP over IPv6"
				}
				if streams > 1 {
					name, text = fmt.Sprintf("%s-%d", name, streams), fmt.Sprintf("%s, %d streams", text, streams)
				}
				if cut {
					name, text = name+"-cut", text+", cut into segments at the tunnel's link"
				}
				out = append(out, cell{[]Column{{Name: name, Unit: "Gbit/s", Text: text}}, single, measureTCP(six, streams, cut)})
			}
		}
	}
	return append(out,
		cell{[]Column{{Name: colUDP64, Unit: "Mpps", Text: "packets of 64 octets, at most 0.1 % lost"}}, single, measurePackets(small)},
		cell{[]Column{
			{Name: "p50", Unit: "us", Text: "latency at half of that rate, median", Less: true},
			{Name: "p99", Unit: "us", Text: "latency at half of that rate, 99th percentile", Less: true},
			{Name: "cpu", Unit: "ns", Text: "CPU time a packet at that rate, sender and receiver included", Less: true},
			{Name: "cycles", Unit: "cycles", Text: "CPU cycles a packet at that rate, sender and receiver included", Less: true},
		}, single, measureLatency},
		cell{[]Column{{Name: "udp512", Unit: "Mpps", Text: "packets of 512 octets, at most 0.1 % lost"}}, single, measurePackets(large)},
		cell{[]Column{{Name: colMany, Unit: "Mpps", Text: "packets of 64 octets to random sessions of many"}}, func(w way.Way) bool { return w.Sessions > 1 }, measurePackets(small)},
		cell{[]Column{{Name: colUpdates, Unit: "1/s", Text: "sessions moved a second, in batches"}}, func(w way.Way) bool { return w.Sessions > 1 && w.Kedge() }, measureUpdates},
		cell{[]Column{
			{Name: colLost, Unit: "packets", Text: "lost of a stream of 100,000 packets a second", Less: true},
			{Name: colHandover, Unit: "packets", Text: "lost of such a stream with handovers", Less: true},
		}, func(w way.Way) bool { return w.Second }, measureHandover},
	)
}

// seeing runs a measurement with the core watched until it has seen a packet, which is long before the warm-up is over: it fails
// unless that is carried as the way says.
func (b *bed) seeing(ctx context.Context, f func() error) error {
	tap, err := b.net.Watch(b.way)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	seen := make(chan error, 1)
	go func() {
		err := tap.Verify(ctx)
		tap.Close()
		seen <- err
	}()
	if err = f(); err != nil {
		stop()
		<-seen // what follows from the first fault is no news
		return err
	}
	select {
	case err = <-seen:
	case <-time.After(seeAfter):
		stop()
		err = <-seen
	}
	stop()
	return err
}

// seeAfter is how long the tap may take to read what was sent.
const seeAfter = 100 * time.Millisecond

func measureTCP(six bool, streams int, cut bool) func(context.Context, *bed, *meter) ([]float64, error) {
	return func(ctx context.Context, b *bed, m *meter) ([]float64, error) {
		if err := b.segment(cut); err != nil {
			return nil, err
		}
		var rate float64
		err := b.seeing(ctx, func() error {
			octets, seconds, err := b.tcp(six, streams, m.time).Measure(ctx)
			rate = float64(octets) * 8 / seconds / 1e9
			return err
		})
		return []float64{rate}, err
	}
}

func measurePackets(size int) func(context.Context, *bed, *meter) ([]float64, error) {
	return func(ctx context.Context, b *bed, m *meter) ([]float64, error) {
		b.now[size] = 0
		u, err := b.ready(ctx, size)
		if err != nil {
			return nil, err
		}
		if b.way.Sessions > 1 {
			if _, err := u.Send(ctx, 0, tablesWarm, nil); err != nil {
				return nil, err
			}
		}
		rate, err := traffic.Search(func(rate float64, long bool) (traffic.Probe, error) {
			t := m.time / 4
			if long {
				t = m.time
			}
			return u.Send(ctx, rate, t, nil)
		}, b.hint[size])
		if err == nil && rate == 0 {
			err = fmt.Errorf("no rate at which at most %g of the packets are lost; %s", traffic.MaxLoss, b.drops())
		}
		b.hint[size], b.now[size] = rate, rate
		return []float64{rate / 1e6}, err
	}
}

// tablesWarm is how long packets go to many sessions before they are measured. A virtual machine's memory that nobody has used for a
// minute, while other ways were measured, is half as fast at first.
const tablesWarm = time.Second

// ready warms a way up for packets, and sees them carried.
func (b *bed) ready(ctx context.Context, size int) (*traffic.UDP, error) {
	u, err := b.udp(size)
	if err != nil {
		return nil, err
	}
	if err := b.segment(false); err != nil {
		return nil, err
	}
	return u, b.seeing(ctx, func() error {
		_, err := u.Send(ctx, 5000, 20*time.Millisecond, nil)
		return err
	})
}

// measureLatency sends at half of the rate that was found in the same round.
func measureLatency(ctx context.Context, b *bed, m *meter) ([]float64, error) {
	rate := b.now[small] / 2
	if rate == 0 {
		return nil, nil // said already
	}
	u, err := b.ready(ctx, small)
	if err != nil {
		return nil, err
	}
	if _, err := u.Send(ctx, rate, m.time/4, nil); err != nil { // the pace settles
		return nil, err
	}
	before, err := m.cpu.Read(b.pids()...)
	if err != nil {
		return nil, err
	}
	var h traffic.Histogram
	p, err := u.Send(ctx, rate, m.time, &h)
	if err != nil {
		return nil, err
	}
	after, err := m.cpu.Read(b.pids()...)
	if err != nil || p.Received == 0 {
		return nil, errors.Join(err, fmt.Errorf("%d of %d packets arrived", p.Received, p.Sent))
	}
	n := float64(p.Received)
	return []float64{
		float64(h.Quantile(0.5)) / 1e3, float64(h.Quantile(0.99)) / 1e3,
		float64(after.Nanoseconds-before.Nanoseconds) / n, float64(after.Cycles-before.Cycles) / n,
	}, nil
}

// updatesPerSecond: how many sessions a sample moves for each second of it.
const updatesPerSecond = 1_000_000

func measureUpdates(_ context.Context, b *bed, m *meter) ([]float64, error) {
	a, err := b.peers[anchor].Ask(peer.Request{Update: max(2, int(updatesPerSecond*m.time.Seconds()))})
	if err != nil {
		return nil, err
	}
	return []float64{float64(a.Updates) / a.Seconds}, nil
}
