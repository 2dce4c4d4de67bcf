package bench

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"kedge/internal/bench/stats"
	"kedge/internal/bench/traffic"
	"kedge/internal/bench/way"
)

// Options of a run.
type Options struct {
	Pairs int           // rounds
	Time  time.Duration // of a sample
	Only  string        // regular expression over "way" and "cell"
	Cells string
	Log   io.Writer
}

// cell is one thing that is measured of each way.
type cell struct {
	name, unit string
	measure    func(ctx context.Context, b *bed, d time.Duration) (float64, error)
}

func tcp(six bool, streams int, cut bool) func(context.Context, *bed, time.Duration) (float64, error) {
	return func(ctx context.Context, b *bed, d time.Duration) (float64, error) {
		if err := b.segment(cut); err != nil {
			return 0, err
		}
		octets, seconds, err := b.tcp(six, streams, d).Measure(ctx)
		return float64(octets) * 8 / seconds / 1e9, err
	}
}

func packets(size int) func(context.Context, *bed, time.Duration) (float64, error) {
	return func(ctx context.Context, b *bed, d time.Duration) (float64, error) {
		u, err := b.udp(size)
		if err != nil {
			return 0, err
		}
		if err := b.segment(false); err != nil {
			return 0, err
		}
		rate, err := traffic.Search(func(rate float64, long bool) (traffic.Probe, error) {
			t := d / 4
			if long {
				t = d
			}
			return u.Send(ctx, rate, t, nil)
		}, b.hint[size])
		b.hint[size] = rate
		return rate / 1e6, err
	}
}

var cells = []cell{
	{"tcp6", "Gbit/s", tcp(true, 1, false)},
	{"tcp4", "Gbit/s", tcp(false, 1, false)},
	{"tcp6-4", "Gbit/s", tcp(true, 4, false)},
	{"tcp6-cut", "Gbit/s", tcp(true, 1, true)},
	{"udp64", "Mpps", packets(64)},
	{"udp512", "Mpps", packets(512)},
}

// Run measures.
func Run(ctx context.Context, o Options, out io.Writer) error {
	only, err := regexp.Compile(o.Only)
	if err != nil {
		return err
	}
	which, err := regexp.Compile(o.Cells)
	if err != nil {
		return err
	}
	ways := []way.Way{{Kind: way.Plain}, {Kind: way.VXLAN}, {Kind: way.WireGuard}}
	for _, k := range []string{way.User, way.EBPF, way.Clsact} {
		for _, e := range way.Encaps {
			if w := (way.Way{Kind: k, Encap: e.Name}); o.Only != "" && only.MatchString(w.Name()) || o.Only == "" && e.Name == "v6" {
				ways = append(ways, w)
			}
		}
	}
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + 8) // threads of traffic wait in system calls, and keep nobody waiting for a processor
	favour()
	var beds []*bed
	defer func() {
		for _, b := range beds {
			b.close()
		}
	}()
	for _, w := range ways {
		b, err := openBed(w)
		if err != nil {
			return err
		}
		beds = append(beds, b)
		b.freeze(true)
	}
	values := map[string]map[string][]float64{}
	r := rand.New(rand.NewPCG(1, 1))
	for round := range o.Pairs {
		fmt.Fprintf(o.Log, "round %d of %d\n", round+1, o.Pairs)
		for _, c := range cells {
			if !which.MatchString(c.name) {
				continue
			}
			if values[c.name] == nil {
				values[c.name] = map[string][]float64{}
			}
			for _, i := range r.Perm(len(beds)) {
				b := beds[i]
				b.freeze(false)
				v, err := c.measure(ctx, b, o.Time)
				b.freeze(true)
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if err != nil {
					fmt.Fprintf(o.Log, "%s %s: %v\n", b.way.Name(), c.name, err)
				}
				values[c.name][b.way.Name()] = append(values[c.name][b.way.Name()], v)
			}
		}
	}
	for _, c := range cells {
		of := values[c.name]
		if of == nil {
			continue
		}
		fmt.Fprintf(out, "%-22s %10s %-24s %-24s %-24s\n", c.name+", "+c.unit, "median", "/ plain", "/ vxlan", "/ wireguard-go")
		for _, b := range beds {
			v := of[b.way.Name()]
			fmt.Fprintf(out, "  %-20s %10.3f", b.way.Name(), stats.Median(v))
			for _, base := range []string{way.Plain, way.VXLAN, way.WireGuard} {
				i := stats.Bootstrap(stats.Ratios(v, of[base]), 1)
				fmt.Fprintf(out, " %6.2f (%5.2f .. %5.2f)   ", i.Median, i.Low, i.High)
			}
			fmt.Fprintln(out)
		}
	}
	return nil
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
