package scenario

import (
	"net/netip"
	"slices"
	"strings"
	"time"
)

// stepParser knows which probes were started so far.
type stepParser struct {
	s      *Scenario
	probes map[string]bool
}

// condKeys are the keys of each kind of condition and how their values read.
var condKeys = map[string]map[string]string{
	"host": {"v4": "text", "v6": "text", "same": "list", "reaches": "text", "changes": "cmp", "interface": "text", "settled": "bool", "since-move": "cmp", "trace": "text", "hops": "list",
		"from": "text", "lookup": "text", "answer": "text", "fetch": "text", "says": "text", "clean": "bool"},
	"probe": {"sent": "cmp", "received": "cmp", "lost": "cmp", "duplicates": "cmp", "alive": "bool", "resets": "cmp", "gap": "cmp", "rtt-p50": "cmp", "octets": "cmp"},
	"binding": {"id": "text", "host": "text", "at": "text", "on": "text", "state": "text", "families": "list", "count": "cmp", "v4": "text", "dialect": "text", "att": "cmp",
		"care-of": "text", "framing": "text", "nat": "bool", "port": "cmp", "home": "text"},
	"metric":   {"node": "text", "name": "text", "labels": "map", "is": "cmp"},
	"capture":  {"link": "text", "filter": "text", "count": "cmp"},
	"ladder":   {"order": "list", "host": "text", "within": "cmp"},
	"peer":     {"on": "text", "peer": "text", "alive": "bool", "restarts": "cmp"},
	"process":  {"on": "text", "running": "bool"},
	"pool":     {"on": "text", "pool": "text", "used": "cmp", "free": "cmp"},
	"route":    {"on": "text", "to": "text", "dev": "text"},
	"handover": {"phase": "text", "p50": "cmp", "p99": "cmp", "count": "cmp"},
	"plane":    {"on": "text", "kind": "text", "why": "text", "adopted": "bool", "partial": "bool"},
}

func (p *stepParser) step(v value) Step {
	s := Step{Pos: v.pos}
	n := 0
	set := func(kind string, f func(value)) func(value) {
		return func(v value) { n++; s.Kind, s.Pos = kind, v.pos; f(v) }
	}
	v.object(map[string]func(value){
		"wait": set("wait", func(v value) {
			if s.Check = p.check(v); s.Check.Within == 0 {
				v.errorf("within is missing: how long to wait")
			}
		}),
		"expect": set("expect", func(v value) { s.Check = p.check(v) }),
		"start": set("start", func(v value) {
			v.pairs(func(kind string, v value) { v.each(func(x value) { s.Start = append(s.Start, p.probe(kind, x)) }) })
		}),
		"stop": set("stop", func(v value) {
			v.each(func(x value) {
				if !p.probes[x.text()] {
					x.errorf("%q was not started", x.text())
				}
				s.Stop = append(s.Stop, x.text())
			})
		}),
		"move":    set("move", func(v value) { s.Move = p.move(v) }),
		"fault":   set("fault", func(v value) { s.Fault = p.fault(v) }),
		"attach":  set("attach", func(v value) { s.Attach = p.attach(v) }),
		"detach":  set("detach", func(v value) { s.Attach = p.attach(v) }),
		"send":    set("send", func(v value) { s.Send = p.send(v) }),
		"say":     set("say", func(v value) { s.Say = v.text() }),
		"row":     set("row", func(v value) { s.Row = p.row(v) }),
		"network": set("network", func(v value) { s.Network = p.network(v) }),
		"only": func(v value) {
			if s.Only = v.text(); s.Only != "ebpf" && s.Only != "user" {
				v.errorf("%q is no data plane: write ebpf or user", s.Only)
			}
		},
		"repeat": set("repeat", func(v value) {
			s.Repeat = &Repeat{Times: 1}
			v.object(map[string]func(value){
				"times": func(v value) { s.Repeat.Times = v.integer(1, 10_000) },
				"steps": func(v value) { v.items(func(v value) { s.Repeat.Steps = append(s.Repeat.Steps, p.step(v)) }) },
			})
		}),
	})
	if n != 1 {
		v.errorf("a step does one thing: %d are written", n)
	}
	return s
}

// check reads conditions: a node's or probe's name, or a kind of condition, each with one or several sets of values.
func (p *stepParser) check(v value) *Check {
	c := &Check{}
	v.pairs(func(key string, v value) {
		if key == "within" {
			c.Within = v.duration()
			return
		}
		kind, on := key, ""
		switch {
		case p.probes[key]:
			kind, on = "probe", key
		case p.s.Node(key) != nil:
			kind, on = "host", key
		}
		if condKeys[kind] == nil || kind == "host" && on == "" || kind == "probe" && on == "" {
			v.errorf("neither a node, nor a started probe, nor one of %s", strings.Join(reserved[1:], ", "))
			return
		}
		v.each(func(x value) { c.Conds = append(c.Conds, p.cond(kind, on, x)) })
	})
	return c
}

func (p *stepParser) cond(kind, on string, v value) Cond {
	c := Cond{Kind: kind, On: on, Pos: v.pos, Want: map[string]Want{}}
	known := map[string]func(value){}
	for key, typ := range condKeys[kind] {
		known[key] = func(v value) {
			w := Want{Pos: v.pos}
			switch typ {
			case "text":
				w.Text = v.text()
			case "list":
				w.List = v.texts()
			case "cmp":
				w.Cmp = v.compare()
			case "bool":
				w.Bool = v.boolean()
			case "map":
				w.Map = map[string]string{}
				v.pairs(func(k string, v value) { w.Map[k] = v.text() })
			}
			c.Want[key] = w
			p.checkRef(kind, key, w, v)
		}
	}
	v.object(known)
	if len(c.Want) == 0 {
		v.errorf("nothing is asked for")
	}
	for _, pair := range [][2]string{{"trace", "hops"}, {"lookup", "answer"}, {"fetch", "says"}} {
		if c.Has(pair[0]) != c.Has(pair[1]) {
			v.errorf("want %s and %s, or neither", pair[0], pair[1])
		}
	}
	for _, must := range map[string][]string{"metric": {"name", "is"}, "capture": {"link", "filter"}, "ladder": {"order"}, "peer": {"on", "peer"}, "process": {"on", "running"}, "pool": {"on", "pool"}, "route": {"on", "to", "dev"}, "plane": {"on"}}[kind] {
		if !c.Has(must) {
			v.errorf("%s is missing", must)
		}
	}
	return c
}

// checkRef verifies that a condition names things that exist.
func (p *stepParser) checkRef(kind, key string, w Want, v value) {
	switch key {
	case "reaches", "trace", "to", "fetch":
		p.target(v)
	case "from":
		v.oneOf("any", "home")
	case "lookup":
		if name, server, ok := strings.Cut(w.Text, "@"); !ok || name == "" || p.s.Node(strings.TrimSuffix(strings.TrimSuffix(server, ".v4"), ".v6")) == nil {
			if _, err := netip.ParseAddr(server); err != nil {
				v.errorf("%q: want NAME@SERVER, a node or an address", w.Text)
			}
		}
	case "hops":
		v.each(func(x value) {
			if x.text() != "*" {
				p.target(x)
			}
		})
	case "on", "node", "at":
		if p.s.Node(w.Text) == nil {
			v.errorf("%q is no node", w.Text)
		}
	case "host":
		if n := p.s.Node(w.Text); n == nil || !n.OnAccess() {
			v.errorf("%q is no host", w.Text)
		}
	case "link":
		if p.s.Link(w.Text) == nil {
			v.errorf("%q is no link", w.Text)
		}
	case "v4", "v6":
		if kind == "host" && w.Text != "any" && w.Text != "none" {
			if _, err := netip.ParseAddr(w.Text); err != nil {
				if _, err := netip.ParsePrefix(w.Text); err != nil {
					v.errorf("%q: want an address, a network, any or none", w.Text)
				}
			}
		}
	case "care-of", "home":
		if _, err := netip.ParseAddr(w.Text); err != nil {
			if _, err := netip.ParsePrefix(w.Text); err != nil {
				v.errorf("%q: want an address or a network", w.Text)
			}
		}
	case "same":
		for _, f := range w.List {
			if f != "v4" && f != "v6" {
				v.errorf("%q: want v4 or v6", f)
			}
		}
	}
}

func (p *stepParser) probe(kind string, v value) Probe {
	pr := Probe{Kind: kind, Pos: v.pos, Family: "v4", Every: 100 * time.Millisecond, Size: 56}
	switch kind {
	case "ping":
	case "tcp":
		pr.Every, pr.Size = 20*time.Millisecond, 500
	case "download":
		pr.Every, pr.Size = 10*time.Millisecond, 8000
	case "bulk":
		pr.Every, pr.Size = 0, 0
	case "udp":
		pr.Every, pr.Size = time.Millisecond, 64
	default:
		v.errorf("want ping, tcp, udp, download or bulk")
	}
	v.object(map[string]func(value){
		"name":      func(v value) { pr.Name = v.text(); checkName(v, pr.Name) },
		"from":      func(v value) { pr.From = v.text(); p.nodeName(v) },
		"to":        func(v value) { pr.To = v.text(); p.target(v) },
		"family":    func(v value) { pr.Family = v.oneOf("v4", "v6") },
		"interface": func(v value) { pr.Iface = v.text() },
		"every":     func(v value) { pr.Every = max(v.duration(), 100*time.Microsecond) },
		"size":      func(v value) { pr.Size = v.integer(16, 8000) },
		"source":    func(v value) { pr.Any = v.oneOf("any", "home") == "any" },
	})
	if name, fam, ok := strings.Cut(pr.To, "."); ok && (fam == "v4" || fam == "v6") {
		pr.To, pr.Family = name, fam
	} else if a, err := netip.ParseAddr(pr.To); err == nil && a.Is6() {
		pr.Family = "v6"
	}
	switch {
	case pr.Name == "" || pr.From == "" || pr.To == "":
		v.errorf("want name, from and to")
	case p.probes[pr.Name]:
		v.errorf("probe %q exists already", pr.Name)
	case p.s.Node(pr.Name) != nil || condKeys[pr.Name] != nil:
		v.errorf("name %q is already taken", pr.Name)
	}
	p.probes[pr.Name] = true
	return pr
}

func (p *stepParser) nodeName(v value) string {
	n := v.text()
	if p.s.Node(n) == nil {
		v.errorf("%q is no node", n)
	}
	return n
}

func (p *stepParser) hostName(v value) string {
	n := v.text()
	if x := p.s.Node(n); x == nil || !x.OnAccess() {
		v.errorf("%q is no host on access links", n)
	}
	return n
}

// target is NODE, NODE.v4, NODE.v6 or an address.
func (p *stepParser) target(v value) string {
	t := v.text()
	name, fam, dot := strings.Cut(t, ".")
	if _, err := netip.ParseAddr(t); err == nil {
		return t
	}
	if p.s.Node(name) == nil || dot && fam != "v4" && fam != "v6" {
		v.errorf("%q: want NODE, NODE.v4, NODE.v6 or an address", t)
	}
	return t
}

func (p *stepParser) accessLink(v value) string {
	l := p.s.Link(v.text())
	if l == nil || !l.Access {
		v.errorf("%q is no access link", v.text())
	}
	return v.text()
}

func (p *stepParser) move(v value) *Move {
	m := &Move{How: "flap"}
	v.object(map[string]func(value){
		"node":      func(v value) { m.Node = p.hostName(v) },
		"to":        func(v value) { m.To = p.accessLink(v) },
		"how":       func(v value) { m.How = v.oneOf("flap", "silent", "break", "second") },
		"interface": func(v value) { m.Iface = v.integer(0, 7) },
		"mac":       func(v value) { m.MAC = v.mac() },
	})
	if m.Node == "" || m.To == "" {
		v.errorf("want node and to")
	}
	if (m.How == "second") != (m.MAC[5] != 0 || m.MAC[4] != 0) {
		v.errorf("mac is that of a second interface: want both or none")
	}
	return m
}

// dropMatches are the kinds of packets that a fault can drop.
var dropMatches = []string{"pbu", "pba", "bu", "ba", "esp", "udp4191", "echo", "heartbeat", "mh", "direct", "dhcp", "rs", "ra", "ns", "na", "arp", "mld", "ipv4", "ipv6", "all"}

func (p *stepParser) fault(v value) *Fault {
	f := &Fault{}
	v.object(map[string]func(value){
		"node": func(v value) { f.Node = p.nodeName(v) },
		"link": func(v value) {
			if f.Link = v.text(); p.s.Link(f.Link) == nil {
				v.errorf("%q is no link", f.Link)
			}
		},
		"do": func(v value) {
			f.Do = v.oneOf("kill", "stop", "cont", "start", "restart", "quit", "end", "switch", "suspend", "lost-store", "drop", "pass", "partition", "heal", "unplug", "plug", "off", "on", "renew", "release", "flush")
		},
		"interface": func(v value) { f.Iface = v.text() },
		"match":     func(v value) { f.Match = v.oneOf(dropMatches...) },
		"what":      func(v value) { f.Match = v.oneOf("rules", "addresses", "routes") },
		"count":     func(v value) { f.Count = v.integer(1, 1_000_000) },
		"for":       func(v value) { f.For = v.duration() },
	})
	if (f.Do == "suspend") != (f.For > 0) {
		v.errorf("for is how long to suspend: want both or none")
	}
	node := p.s.Node(f.Node)
	switch f.Do {
	case "drop", "pass":
		l := p.s.Link(f.Link)
		switch {
		case l == nil || f.Do == "drop" && f.Match == "":
			v.errorf("%s needs link, and drop needs match", f.Do)
		case l.Access:
			v.errorf("frames can be dropped on links that are no access links")
		default:
			l.User = true
		}
	case "partition", "heal", "unplug", "plug":
		if node == nil || p.s.Link(f.Link) == nil || node.OnAccess() || !slices.ContainsFunc(node.On, func(x Port) bool { return x.Link == f.Link }) {
			v.errorf("%s needs a node and a link that it is on", f.Do)
		}
	case "off", "on", "renew", "release":
		if node == nil || !node.OnAccess() {
			v.errorf("%s needs a host on access links", f.Do)
		}
	case "":
		v.errorf("do is missing")
	case "flush":
		if node == nil || node.Mobile == nil || f.Match == "" {
			v.errorf("flush needs a mobile node, and what")
		}
	default:
		if node == nil || node.Kedge == "" {
			v.errorf("%s needs a kedge node", f.Do)
		}
	}
	return f
}

func (p *stepParser) attach(v value) *Attach {
	a := &Attach{}
	gw := func(v value) string {
		if n := p.s.Node(v.text()); n == nil || n.Kedge == "" {
			v.errorf("%q is no gateway", v.text())
		}
		return v.text()
	}
	v.object(map[string]func(value){
		"host":     func(v value) { a.Host = p.hostName(v) },
		"at":       func(v value) { a.At = gw(v) },
		"previous": func(v value) { a.Previous = gw(v) },
		"id":       func(v value) { a.ID = v.text() },
	})
	if a.Host == "" || a.At == "" {
		v.errorf("want host and at")
	}
	return a
}

func (p *stepParser) send(v value) *Send {
	s := &Send{Count: 1, Size: 32, Port: 9}
	v.object(map[string]func(value){
		"from":      func(v value) { s.From = p.nodeName(v) },
		"count":     func(v value) { s.Count = v.integer(1, 100_000) },
		"mac":       func(v value) { s.MAC = v.text() },
		"src":       func(v value) { s.Src = p.target(v) },
		"dst":       func(v value) { s.Dst = p.target(v) },
		"size":      func(v value) { s.Size = v.integer(0, 8000) },
		"outer-src": func(v value) { s.OuterSrc = p.target(v) },
		"outer-dst": func(v value) { s.OuterDst = p.target(v) },
		"hex":       func(v value) { s.Hex = v.text() },
		"via":       func(v value) { s.Via = v.text() },
		"port":      func(v value) { s.Port = v.integer(1, 65535) },
		"bu": func(v value) {
			s.BU = &ForgedBU{Lifetime: 20 * time.Second}
			v.object(map[string]func(value){
				"home":     func(v value) { s.BU.Home = p.target(v) },
				"lifetime": func(v value) { s.BU.Lifetime = v.duration() },
			})
		},
		"replay":  func(v value) { s.Replay = v.oneOf("pbu", "pba", "bu", "ba", "esp") },
		"corrupt": func(v value) { s.Corrupt = v.boolean() },
		"pbu": func(v value) {
			s.PBU = &ForgedPBU{Lifetime: 8 * time.Second}
			v.object(map[string]func(value){
				"id":       func(v value) { s.PBU.ID = v.text() },
				"v4":       func(v value) { s.PBU.V4 = v.addr().String() },
				"mac":      func(v value) { s.PBU.MAC = v.mac() },
				"lifetime": func(v value) { s.PBU.Lifetime = v.duration() },
			})
		},
	})
	switch {
	case s.From == "":
		v.errorf("from is missing")
	case s.Hex == "" && s.Replay == "" && (s.Src == "" || s.Dst == ""):
		v.errorf("want src and dst, or hex, or replay")
	case (s.OuterSrc == "") != (s.OuterDst == ""):
		v.errorf("want outer-src and outer-dst, or neither")
	}
	return s
}

func (s *Scenario) parseEnd(v value) {
	p := &stepParser{s: s, probes: map[string]bool{}}
	var walk func([]Step)
	walk = func(steps []Step) {
		for _, st := range steps {
			for _, pr := range st.Start {
				p.probes[pr.Name] = true
			}
			if st.Repeat != nil {
				walk(st.Repeat.Steps)
			}
		}
	}
	walk(s.Steps)
	v.object(map[string]func(value){
		"wire": func(v value) {
			v.object(map[string]func(value){"tshark-errors": func(v value) { c := v.compare(); s.End.TsharkErrors = &c }})
		},
		"leaks": func(v value) { s.End.Leaks = v.oneOf("none") == "none" },
		"counters": func(v value) {
			v.pairs(func(name string, v value) {
				v.each(func(v value) {
					c := Cond{Kind: "metric", Pos: v.pos, Want: map[string]Want{"name": {Text: name}, "labels": {Map: map[string]string{}}}}
					v.pairs(func(key string, v value) {
						switch key {
						case "is":
							c.Want["is"] = Want{Cmp: v.compare(), Pos: v.pos}
						case "node":
							c.Want["node"] = Want{Text: p.nodeName(v), Pos: v.pos}
						default:
							c.Want["labels"].Map[key] = v.text()
						}
					})
					if !c.Has("is") {
						v.errorf("is is missing: the bound of the counter")
					}
					s.End.Conds = append(s.End.Conds, c)
				})
			})
		},
		"also": func(v value) { s.End.Conds = append(s.End.Conds, p.check(v).Conds...) },
	})
}
