package ladder

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"kedge/internal/core"
)

// Node is one lane. Lanes stand in the order that they were given: hosts, gateways, anchor, correspondents.
type Node struct {
	Name  string
	MACs  []core.MAC // of hosts, on access links
	Addrs []netip.Addr
	// Access are the links where the node is the router: frames there that no host sent are its.
	Access []string
	// LANs are the links where the node is an ordinary router: what hosts there send to addresses of other lanes goes to
	// those, and only what is left is the router's own.
	LANs []string
}

// Diagram is a sequence of messages between nodes. Frames are added in any order of links; Lines sorts them by time.
type Diagram struct {
	Title string
	Nodes []Node
	Start time.Time // zero of the times; if zero, the first line's
	lines []Line

	mac     map[core.MAC]int
	addr    map[netip.Addr]int
	acc     map[string]int
	lan     map[string]int
	asked   map[string]int // LANs where a host waits for a Router Advertisement: its lane
	running map[run]int    // index of the data line that further frames of the direction join
}

// run is a direction of data.
type run struct {
	from, to int
	short    string
}

// Line is one message from lane to lane, or a note across all of them.
type Line struct {
	At       time.Time
	From, To int // lanes; -1 in notes
	Frame    Frame
	Text     string
	Count    int // frames of a data line
}

// New makes a diagram.
func New(title string, start time.Time, nodes []Node) *Diagram {
	d := &Diagram{Title: title, Nodes: nodes, Start: start, mac: map[core.MAC]int{}, addr: map[netip.Addr]int{}, acc: map[string]int{}, lan: map[string]int{}, asked: map[string]int{}, running: map[run]int{}}
	for i, n := range nodes {
		for _, m := range n.MACs {
			d.mac[m] = i
		}
		for _, a := range n.Addrs {
			d.addr[a] = i
		}
		for _, l := range n.Access {
			d.acc[l] = i
		}
		for _, l := range n.LANs {
			d.lan[l] = i
		}
	}
	return d
}

// Note adds a line across all lanes: what the lab did.
func (d *Diagram) Note(at time.Time, text string) {
	d.lines = append(d.lines, Line{At: at, From: -1, To: -1, Text: text})
	clear(d.running)
}

// Add adds a frame if both its ends are lanes. Data frames of one direction become one line with their number; what the lab
// did, or the answer to a registration, starts a new one: the first packet after it matters.
func (d *Diagram) Add(f Frame) {
	from, to, ok := d.ends(&f)
	if !ok || from == to {
		return
	}
	if f.Kind == "DATA" {
		key := run{from, to, f.Short}
		if i, ok := d.running[key]; ok {
			d.lines[i].Count++
			return
		}
		d.running[key] = len(d.lines)
	}
	if f.Kind == "PBA" || f.Kind == "BA" {
		clear(d.running)
	}
	d.lines = append(d.lines, Line{At: f.At, From: from, To: to, Frame: f, Text: f.Label, Count: 1})
}

func (d *Diagram) ends(f *Frame) (from, to int, ok bool) {
	if router, lan := d.lan[f.Link]; lan {
		return d.lanEnds(f, router)
	}
	gw, access := d.acc[f.Link]
	if !access {
		from, ok1 := d.addr[f.From]
		to, ok2 := d.addr[f.To]
		return from, to, ok1 && ok2
	}
	from, isHost := d.mac[f.Src]
	if !isHost {
		if f.Src[0]&1 != 0 {
			return 0, 0, false
		}
		from = gw // the router's MAC is the same on every link
	}
	to, isHost = d.mac[f.Dst]
	if !isHost {
		to = gw
	}
	if from == gw && to == gw {
		// Broadcast by the gateway: to the host that it is about, if that is known.
		to, ok = d.mac[f.Host]
		return from, to, ok
	}
	return from, to, true
}

// lanEnds are the lanes of a frame on a LAN. Beyond the router the same packet is drawn again only where its addresses are
// those of lanes: behind a NAT, that is the router's own message.
func (d *Diagram) lanEnds(f *Frame, router int) (from, to int, ok bool) {
	lane := func(m core.MAC, a netip.Addr) int {
		if i, ok := d.mac[m]; ok {
			return i
		}
		if i, ok := d.addr[a]; ok {
			return i
		}
		return router
	}
	from, to = lane(f.Src, f.From), lane(f.Dst, f.To)
	switch {
	case f.Kind == "RS":
		d.asked[f.Link] = from
	case f.Kind == "RA" && from == router && to == router:
		// Routers advertise to all, all the time: what counts is the one that a host has asked for.
		if to, ok = d.asked[f.Link]; !ok {
			return 0, 0, false
		}
		delete(d.asked, f.Link)
	}
	return from, to, true
}

// Lines gives the messages in order of time.
func (d *Diagram) Lines() []Line {
	out := slices.Clone(d.lines)
	slices.SortStableFunc(out, func(a, b Line) int { return a.At.Compare(b.At) })
	for i := range out {
		if out[i].Count > 1 {
			out[i].Text = fmt.Sprintf("%s (%d packets from here)", out[i].Frame.Short, out[i].Count)
		}
	}
	return out
}

// Order checks that the short names appear in this order among the lines (others may stand between), and says which one
// is missing. Only lines of the named host count, if one is named: by MAC or MN-Identifier.
func (d *Diagram) Order(names []string, about func(*Frame) bool) (missing string, took time.Duration) {
	lines := d.Lines()
	i := 0
	var first time.Time
	for _, name := range names {
		for {
			if i == len(lines) {
				return name, 0
			}
			l := lines[i]
			i++
			if l.is(name, about) {
				if first.IsZero() {
					first = l.At
				}
				took = l.At.Sub(first)
				break
			}
		}
	}
	return "", took
}

// is says whether a line is the message of that short name, or with "--- " before it the note of that text.
func (l *Line) is(name string, about func(*Frame) bool) bool {
	if note, ok := strings.CutPrefix(name, "--- "); ok {
		return l.From < 0 && l.Text == note
	}
	return l.From >= 0 && l.Frame.Short == name && (about == nil || about(&l.Frame))
}

// quiet are kinds that a drawing leaves out when it has more than maxLines lines.
var quiet = []string{"MLD", "ARP", "NS", "NA", "ECHO", "KEEPALIVE", "HEARTBEAT"}

// maxLines bounds a drawing; the pcap has all. One of more than manyLines leaves out how infrastructure finds its neighbours.
const (
	maxLines  = 400
	manyLines = 60
)

// forPeople folds and thins out lines until they can be read, and says how many messages are not in any.
func (d *Diagram) forPeople() (lines []Line, left int) {
	lines = foldHeartbeats(d.Lines())
	all := len(lines)
	if len(lines) > manyLines {
		lines = slices.DeleteFunc(lines, func(l Line) bool {
			return l.From >= 0 && slices.Contains([]string{"ARP", "NS", "NA"}, l.Frame.Kind) && len(d.Nodes[l.From].MACs)+len(d.Nodes[l.To].MACs) == 0
		})
	}
	for _, k := range quiet {
		if len(lines) <= maxLines {
			break
		}
		lines = slices.DeleteFunc(lines, func(l Line) bool { return l.From >= 0 && l.Frame.Kind == k })
	}
	if len(lines) > maxLines {
		lines = lines[:maxLines]
	}
	return lines, all - len(lines)
}

// foldHeartbeats makes one line of the heartbeats of a direction up to what the lab does next: whether they go on then, and
// are answered, is what one wants to see. A node's echoes and keepalives are of that kind.
func foldHeartbeats(in []Line) (out []Line) {
	first := map[run]int{}
	for _, l := range in {
		switch {
		case l.From < 0:
			clear(first)
		case l.Frame.Kind == "HEARTBEAT" || l.Frame.Kind == "ECHO" || l.Frame.Kind == "KEEPALIVE":
			key := run{l.From, l.To, l.Frame.Short}
			if i, ok := first[key]; ok {
				out[i].Count++
				out[i].Text = fmt.Sprintf("%s (%d from here)", l.Frame.Short, out[i].Count)
				continue
			}
			first[key] = len(out)
		}
		out = append(out, l)
	}
	return out
}

func (d *Diagram) zero(lines []Line) time.Time {
	if !d.Start.IsZero() || len(lines) == 0 {
		return d.Start
	}
	return lines[0].At
}

// Text draws the diagram for a terminal.
func (d *Diagram) Text() string {
	const gap = 13
	var b strings.Builder
	lines, left := d.forPeople()
	zero := d.zero(lines)
	col := func(i int) int { return 12 + i*gap }
	width := col(len(d.Nodes)-1) + 2
	fmt.Fprintf(&b, "%s\n\n", d.Title)
	row := []rune(strings.Repeat(" ", width+gap))
	for i, n := range d.Nodes {
		at := max(0, col(i)-len(n.Name)/2)
		copy(row[at:], []rune(n.Name))
	}
	b.WriteString(strings.TrimRight(string(row), " ") + "\n")
	n := 0
	for _, l := range lines {
		row := []rune(strings.Repeat(" ", width))
		copy(row, []rune(fmt.Sprintf("%9.4f s", l.At.Sub(zero).Seconds())))
		for i := range d.Nodes {
			row[col(i)] = '|'
		}
		if l.From < 0 {
			fmt.Fprintf(&b, "%s --- %s\n", string(row), l.Text)
			continue
		}
		lo, hi := min(l.From, l.To), max(l.From, l.To)
		dash := '-'
		if l.Frame.Kind == "DATA" && l.Frame.Tunnel {
			dash = '='
		} else if l.Frame.Kind == "DATA" {
			dash = '.'
		}
		for x := col(lo) + 1; x < col(hi); x++ {
			row[x] = dash
		}
		if l.To > l.From {
			row[col(hi)-1] = '>'
		} else {
			row[col(lo)+1] = '<'
		}
		n++
		fmt.Fprintf(&b, "%s %3d. %s\n", string(row), n, l.Text)
	}
	if left > 0 {
		fmt.Fprintf(&b, "%d further lines are in the capture.\n", left)
	}
	return b.String()
}

// AddMAC gives a lane one more MAC address: a host got another interface.
func (d *Diagram) AddMAC(node string, m core.MAC) {
	for i, n := range d.Nodes {
		if n.Name == node {
			d.mac[m] = i
		}
	}
}
