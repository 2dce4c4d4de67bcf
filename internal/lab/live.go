package lab

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// Live is a screen that shows a network while it runs: where each host is, its addresses, its traffic and the phases of its
// last move. On a terminal it redraws itself with plain ANSI sequences; elsewhere it prints what happens, line by line.
type Live struct {
	out io.Writer
	tty bool
	fd  int

	mu    sync.Mutex
	lines []string // newest last
	run   *Run
	once  sync.Once
	stop  chan struct{}
	wg    sync.WaitGroup
}

// NewLive makes a screen on f.
func NewLive(f *os.File) *Live {
	return &Live{out: f, tty: term.IsTerminal(int(f.Fd())), fd: int(f.Fd()), stop: make(chan struct{})}
}

// keepLines is how many lines of news the screen shows.
const keepLines = 10

// Write takes the run's log: it is the Options.Log of a run with a screen.
func (l *Live) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.tty {
		return l.out.Write(b)
	}
	for line := range strings.Lines(string(b)) {
		l.lines = append(l.lines, strings.TrimRight(line, "\n"))
	}
	if n := len(l.lines) - keepLines; n > 0 {
		l.lines = l.lines[n:]
	}
	return len(b), nil
}

// attach begins to draw a run.
func (l *Live) attach(r *Run) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.run != nil || !l.tty {
		l.run = r
		return
	}
	l.run = r
	fmt.Fprint(l.out, "\x1b[?25l") // no cursor
	l.wg.Go(func() {
		t := time.NewTicker(200 * time.Millisecond)
		defer t.Stop()
		for {
			l.draw()
			select {
			case <-l.stop:
				l.draw()
				fmt.Fprint(l.out, "\x1b[?25h\n")
				return
			case <-t.C:
			}
		}
	})
}

// Close ends the drawing; the last picture stays. It may be called again.
func (l *Live) Close() {
	l.once.Do(func() { close(l.stop) })
	l.wg.Wait()
}

func (l *Live) draw() {
	l.mu.Lock()
	text := l.run.screen() + "\n" + strings.Join(l.lines, "\n")
	l.mu.Unlock()
	width, height, err := term.GetSize(l.fd)
	if err != nil {
		width, height = 100, 40
	}
	var b strings.Builder
	b.WriteString("\x1b[H")
	n := 0
	for line := range strings.Lines(text) {
		if n++; n >= height {
			break
		}
		if r := []rune(strings.TrimRight(line, "\n")); len(r) > width {
			b.WriteString(string(r[:width]))
		} else {
			b.WriteString(string(r))
		}
		b.WriteString("\x1b[K\n")
	}
	b.WriteString("\x1b[J")
	_, _ = io.WriteString(l.out, b.String())
}

// screen is the picture of a run: the links with their hosts, then the table of hosts.
func (r *Run) screen() string {
	var b strings.Builder
	fmt.Fprintf(&b, "kedge lab: %s   %6.1f s   %s\n\n", r.sc.Name, time.Since(r.start).Seconds(), r.sc.About)
	r.recMu.Lock()
	for _, s := range r.sc.Links {
		if !s.Access {
			continue
		}
		gw, offers := "-", ""
		if n := r.gatewayOf(s.Name); n != nil {
			gw, offers = n.name, n.router.String()
		}
		var here []string
		for _, n := range r.nodes {
			if n.host == nil || len(here) > shownOfCrowd {
				continue
			}
			for _, w := range n.wires {
				if w.link == s.Name {
					here = append(here, n.name)
				}
			}
		}
		if !s.LAN {
			fmt.Fprintf(&b, "  %-6s %-6s  %s\n", gw, s.Name, strings.Join(here, " "))
			continue
		}
		fmt.Fprintf(&b, "  %-8s %-8s %-42s %s\n", gw, s.Name, offers, strings.Join(here, " "))
	}
	r.recMu.Unlock()
	b.WriteString("\n" + r.hostTable())
	return b.String()
}

// shownOfCrowd is how many hosts of a crowd have a line.
const shownOfCrowd = 8

// hostTable is a line for each host: client, place, addresses, traffic, last handover.
func (r *Run) hostTable() string {
	var b strings.Builder
	fmt.Fprintf(&b, "  %-8s %-9s %-6s %-12s %-26s %-18s %-16s %s\n", "host", "client", "at", "IPv4", "IPv6", "ping lost/sent", "tcp", "last handover, ms: link>sign>update>answer>first packet")
	for _, n := range r.nodes {
		if n.host == nil || n.index >= shownOfCrowd {
			continue
		}
		r.recMu.Lock()
		at := n.wires[0].link
		r.recMu.Unlock()
		client := n.spec.Host
		if n.mobile() {
			client = "kedge"
		}
		fmt.Fprintf(&b, "  %-8s %-9s %-6s %-12s %-26s %-18s %-16s %s\n", n.name, client, at,
			first(n, "v4"), first(n, "v6"), r.traffic(n, "ping"), r.traffic(n, "tcp"), r.lastHandover(n))
	}
	return b.String()
}

func first(n *node, fam string) string {
	if a := n.host.usableAddrs("", fam); len(a) > 0 {
		return a[0].Addr().String()
	}
	return "-"
}

// traffic sums up the probes of a kind from or to a host.
func (r *Run) traffic(n *node, kind string) string {
	r.recMu.Lock()
	defer r.recMu.Unlock()
	sent, lost, resets, alive, any := 0, 0, 0, true, false
	var octets int64
	for _, p := range r.probes {
		if p.Spec.Kind != kind && !(kind == "tcp" && p.Spec.Kind == "download") || p.Spec.From != n.ns && p.Spec.To != n.ns {
			continue
		}
		s := p.Stats()
		any = true
		sent += s.Sent
		lost += s.Lost
		resets += s.Resets
		octets += s.Octets
		alive = alive && (s.Alive || resets == 0)
	}
	switch {
	case !any:
		return "-"
	case kind == "tcp" && !alive:
		return fmt.Sprintf("RESET %d", resets)
	case kind == "tcp":
		return fmt.Sprintf("open, %d KB", octets/1000)
	}
	return fmt.Sprintf("%d/%d", lost, sent)
}

// lastHandover shows the phases of the newest move, and how many there were.
func (r *Run) lastHandover(n *node) string {
	r.recMu.Lock()
	defer r.recMu.Unlock()
	count := 0
	var last *handover
	for _, h := range r.handovers {
		if h.Host == n.name {
			count++
			last = h
		}
	}
	if last == nil {
		return "-"
	}
	var parts []string
	names := phases
	if last.mobile {
		names = nodePhases
	}
	for _, name := range names[:4] {
		if d, ok := last.phase(name); ok {
			parts = append(parts, fmt.Sprintf("%.1f", ms(d)))
		} else {
			parts = append(parts, "..")
		}
	}
	return fmt.Sprintf("%s (%s, %d moves)", strings.Join(parts, " > "), last.How, count)
}
