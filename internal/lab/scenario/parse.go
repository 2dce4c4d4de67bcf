package scenario

import (
	"errors"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
)

var (
	nameForm = regexp.MustCompile(`^[a-z][a-z0-9]{0,9}$`)
	fileForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,39}$`)
	idForm   = regexp.MustCompile(`^(S00[0-4]-[0-9A-Za-z.]+-\d+|RFC\d+-[0-9A-Za-z.]+)$`)
)

// reserved names are those of conditions, so no node or probe may have them.
var reserved = []string{"within", "binding", "metric", "capture", "ladder", "peer", "process", "pool", "route", "handover", "plane"}

// Load reads a file.
func Load(file string) (*Scenario, error) {
	src, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return Parse(file, src)
}

// Parse reads a scenario and checks all that can be checked without running it. The error joins every mistake.
func Parse(file string, src []byte) (*Scenario, error) {
	r := &reader{file: file}
	s := &Scenario{File: file, Budget: time.Minute, End: End{}}
	if root, ok := r.open(src); ok {
		var later []func() // what refers to names that may be written further down
		version := false
		root.object(map[string]func(value){
			"version": func(v value) { version = true; v.integer(1, 1) },
			"scenario": func(v value) {
				if s.Name = v.text(); !fileForm.MatchString(s.Name) {
					v.errorf("want a name of lower-case letters, digits and hyphens")
				}
			},
			"about":  func(v value) { s.About = v.text() },
			"figure": func(v value) { s.Figure = v.text() },
			"budget": func(v value) { s.Budget = v.duration() },
			"matrix": func(v value) { s.Matrix = v.boolean() },
			"long":   func(v value) { s.Long = v.boolean() },
			"covers": func(v value) {
				v.each(func(x value) {
					id := x.text()
					if !idForm.MatchString(id) {
						x.errorf("%q is no requirement id: want S001-3.2.2-03", id)
					}
					s.Covers = append(s.Covers, id)
				})
			},
			"links": func(v value) {
				v.pairs(func(name string, v value) { s.Links = append(s.Links, parseLink(name, v)) })
			},
			"nodes": func(v value) {
				later = append(later, func() {
					v.pairs(func(name string, v value) { s.Nodes = append(s.Nodes, s.parseNode(name, v)) })
				})
			},
			"steps": func(v value) {
				later = append(later, func() {
					p := &stepParser{s: s, probes: map[string]bool{}}
					v.items(func(v value) { s.Steps = append(s.Steps, p.step(v)) })
				})
			},
			"expect-at-end": func(v value) {
				later = append(later, func() { s.parseEnd(v) })
			},
		})
		if !version {
			root.errorf("version is missing: write version: 1")
		}
		if s.Name == "" {
			root.errorf("scenario is missing: write its name")
		}
		// Nodes before steps, whatever the order in the file.
		for _, f := range later {
			f()
		}
	}
	if len(r.errs) > 0 {
		return nil, errors.Join(r.errs...)
	}
	return s, nil
}

func checkName(v value, name string) {
	switch {
	case !nameForm.MatchString(name):
		v.errorf("name %q: want a letter and up to 9 letters or digits, lower case", name)
	case slices.Contains(reserved, name):
		v.errorf("name %q is a condition's: choose another one", name)
	}
}

func parseLink(name string, v value) Link {
	checkName(v, name)
	l := Link{Name: name, Pos: v.pos}
	hole := 0 // larger packets vanish, although every interface takes them: a path whose routers say nothing
	v.object(map[string]func(value){
		"access":    func(v value) { l.Access = v.boolean() },
		"lan":       func(v value) { l.LAN = v.boolean() },
		"prefix":    func(v value) { v.each(func(x value) { l.Prefix = append(l.Prefix, x.prefix()) }) },
		"mtu":       func(v value) { l.MTU = v.integer(1280, 9000) },
		"blackhole": func(v value) { hole = v.integer(1280, 9000) },
		"delay":     func(v value) { l.Impair.Delay = v.duration() },
		"jitter":    func(v value) { l.Impair.Jitter = v.duration() },
		"loss":      func(v value) { l.Impair.Loss = v.probability() },
		"duplicate": func(v value) { l.Impair.Duplicate = v.probability() },
		"reorder":   func(v value) { l.Impair.Reorder = v.probability() },
		"rate":      func(v value) { l.Impair.Rate = v.rate() },
	})
	if l.Access && l.LAN {
		v.errorf("a link is an access link of gateways or a LAN, not both")
	}
	l.Access = l.Access || l.LAN
	l.Impair.MTU = l.MTU
	set := l.Impair
	set.MTU = hole
	if hole > 0 {
		l.Impair.MTU = hole
	}
	if l.User = set.String() != ""; l.User && l.Access {
		v.errorf("an access link has no impairments: hosts move between bridges")
	}
	return l
}

func (s *Scenario) parseNode(name string, v value) Node {
	checkName(v, name)
	n := Node{Name: name, Pos: v.pos, Count: 1}
	if s.Node(name) != nil || s.Link(name) != nil {
		v.errorf("name %q is already taken", name)
	}
	var mac, router *value
	v.object(map[string]func(value){
		"kedge":  func(v value) { n.Kedge = v.text() },
		"config": func(v value) { n.Config = v.anyMap() },
		"down":   func(v value) { n.Down = v.boolean() },
		"routes": func(v value) {
			n.Routes = map[netip.Prefix]netip.Addr{}
			v.pairs(func(key string, x value) {
				to, err := netip.ParsePrefix(key)
				if via := x.addr(); err != nil || to != to.Masked() || to.Addr().Is4() != via.Is4() {
					x.errorf("want a network and a next hop of its family, as in 10.20.0.0/24: 198.51.100.1")
				} else {
					n.Routes[to] = via
				}
			})
		},
		"forward": func(v value) { n.Forward = v.boolean() },
		"on": func(v value) {
			v.pairs(func(link string, v value) { n.On = append(n.On, s.parsePort(link, v)) })
		},
		"host": func(v value) { n.Host = v.oneOf(hostKinds...) },
		"at": func(v value) {
			v.each(func(x value) {
				l := s.Link(x.text())
				if l == nil || !l.Access {
					x.errorf("%q is no access link", x.text())
				}
				n.Ifaces = append(n.Ifaces, Iface{Link: x.text()})
			})
		},
		"mac":      func(v value) { mac = &v },
		"count":    func(v value) { n.Count = v.integer(1, 200) },
		"id":       func(v value) { n.ID = v.text() },
		"families": func(v value) { v.each(func(x value) { n.Families = append(n.Families, x.oneOf("v4", "v6")) }) },
		"address":  func(v value) { v.each(func(x value) { n.Address = append(n.Address, x.prefix()) }) },
		"profile":  func(v value) { n.Profile = v.anyMap() },
		"gateway":  func(v value) { n.Gateway = v.anyMap() },
		"unknown":  func(v value) { n.Unknown = v.boolean() },
		"off":      func(v value) { n.Off = v.boolean() },
		"router":   func(v value) { router = &v },
		"mobile":   func(v value) { n.Mobile = parseMobile(v) },
		"web":      func(v value) { n.Web = v.boolean() },
		"names": func(v value) {
			n.DNS = map[string]netip.Addr{}
			v.pairs(func(key string, x value) { n.DNS[key] = x.addr() })
		},
		"wireguard":  func(v value) { n.WireGuard = s.parseWireGuard(v) },
		"protection": func(v value) { n.Protection = v.oneOf("esp", "rfc4285", "none") },
		"suite":      func(v value) { n.Suite = v.oneOf("aes128-sha256", "aes256-sha256", "aes256-sha512", "aes128-sha1") },
	})
	if mac != nil {
		i := 0
		mac.each(func(x value) {
			if i < len(n.Ifaces) {
				n.Ifaces[i].MAC = x.mac()
			} else {
				x.errorf("more MAC addresses than links in \"at\"")
			}
			i++
		})
		if i < len(n.Ifaces) {
			mac.errorf("want a MAC address for each link in \"at\"")
		}
	} else if n.OnAccess() {
		v.errorf("mac is missing: hosts on access links are known by it")
	}
	switch {
	case router == nil:
	case router.isMapping():
		n.Serve = parseRouter(*router)
		s.checkServe(&n, *router)
	default:
		n.Router = router.addr()
	}
	switch {
	case n.Mobile != nil:
		n.checkMobile(s, v)
	case n.Serve != nil && n.Host == "" && n.Kedge == "":
	case (n.Kedge == "") == (n.Host == ""):
		v.errorf("want either kedge (a config template) or host (%s), or router", strings.Join(hostKinds, ", "))
	case n.Kedge != "" && (n.OnAccess() || len(n.On) == 0):
		v.errorf("a kedge node needs \"on\" with its links, not \"at\"")
	case n.Host != "" && n.OnAccess() == (len(n.On) > 0):
		v.errorf("a host needs \"at\" with its access links, or \"on\" with other links and addresses")
	case n.OnAccess() && (n.Forward || n.Routes != nil):
		v.errorf("hosts on access links learn their routes")
	case len(n.On) > 0 && n.Host != "" && n.Host != "static":
		v.errorf("a host with \"on\" is static")
	case n.Count > 1 && (n.ID != "" || len(n.Address) > 0):
		v.errorf("a crowd has neither id nor address")
	}
	if n.Families == nil {
		n.Families = []string{"v4", "v6"}
		if n.Host == "slaac" {
			n.Families = []string{"v6"}
		}
	}
	return n
}

func (s *Scenario) parsePort(link string, v value) Port {
	p := Port{Link: link, Pos: v.pos}
	l := s.Link(link)
	if l == nil {
		v.errorf("%q is no link", link)
		return p
	}
	iface := func(x value) {
		if p.Iface = x.text(); !nameForm.MatchString(p.Iface) {
			x.errorf("want the name of the access interface, as in acc0")
		}
	}
	v.each(func(x value) {
		if l.LAN && !x.isMapping() {
			iface(x)
			return
		}
		if l.Access && x.isMapping() {
			x.object(map[string]func(value){"interface": iface, "technology": func(x value) { p.Technology = x.text() }})
			return
		}
		if l.Access {
			iface(x)
			return
		}
		a := x.addr()
		if !a.IsValid() {
			return
		}
		if !slices.ContainsFunc(l.Prefix, func(p netip.Prefix) bool { return p.Contains(a) }) {
			x.errorf("%s is in no prefix of link %s", a, link)
		}
		p.Addrs = append(p.Addrs, a)
	})
	if !l.Access {
		p.Iface = link + "0"
	}
	return p
}
