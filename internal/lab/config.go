package lab

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/goccy/go-yaml"

	"kedge/internal/lab/scenario"
)

// dict is a YAML mapping.
type dict = map[string]any

// writeConfig makes the config of a kedge node: the template of the scenario, what follows from the network, and the node's
// own overrides, in this order. It returns the file's name.
func (r *Run) writeConfig(n *node) (string, error) {
	text, err := r.opt.Files(n.spec.Kedge)
	if err != nil {
		return "", fmt.Errorf("%s: template: %w", n.name, err)
	}
	var cfg dict
	if err := yaml.Unmarshal(text, &cfg); err != nil {
		return "", fmt.Errorf("%s: template %s: %w", n.name, n.spec.Kedge, err)
	}
	over, _ := n.spec.Config.(dict)
	// "access" of templates and overrides is one mapping that goes into every access link.
	access := merge2(takeAccess(cfg), takeAccess(over))
	dir, err := r.workDir(n)
	if err != nil {
		return "", err
	}
	derived, err := r.derived(n, cfg, access, dir)
	if err != nil {
		return "", fmt.Errorf("%s: config: %w", n.name, err)
	}
	cfg = mergeDict(cfg, derived)
	cfg = mergeDict(cfg, over)
	out, err := yaml.MarshalWithOptions(cfg, yaml.Indent(2))
	if err != nil {
		return "", fmt.Errorf("%s: config: %w", n.name, err)
	}
	file := filepath.Join(r.dir, n.name+".yaml")
	n.daemon = &daemon{n: n, config: file, socket: filepath.Join(dir, "api.sock"), store: filepath.Join(dir, "store.db"), log: filepath.Join(r.dir, n.name+".log")}
	return file, os.WriteFile(file, out, 0o644)
}

// isAnchor says whether a template is an anchor's.
func isAnchor(cfg dict) bool { return cfg["anchor"] != nil }

// isCorrespondent says whether a template is that of a host that is nothing but a correspondent node.
func isCorrespondent(cfg dict) bool {
	_, peer := cfg["peer"]
	return peer && cfg["node"] == nil
}

// derived is what follows from the network.
func (r *Run) derived(n *node, cfg dict, access dict, dir string) (dict, error) {
	d := dict{
		"version":   1,
		"name":      n.name,
		"api":       dict{"socket": filepath.Join(dir, "api.sock")},
		"events":    dict{"file": filepath.Join(r.dir, n.name+".events.jsonl")},
		"store":     dict{"path": filepath.Join(dir, "store.db")},
		"dataplane": dict{},
	}
	if !n.mobile() {
		var core []any
		for _, p := range n.spec.On {
			if !r.sc.Link(p.Link).Access {
				core = append(core, p.Iface)
			}
		}
		d["dataplane"].(dict)["core"] = core
	}
	plane, err := planeConfig(r.opt.Dataplane)
	if err != nil {
		return nil, err
	}
	if r.correspondents[n.name] { // the fast path is for tunnels
		plane = dict{"kind": "user"}
	}
	d["dataplane"] = mergeDict(d["dataplane"].(dict), plane)
	if r.correspondents[n.name] { // it trusts nobody
		return d, nil
	}
	peers, err := r.peersOf(n)
	if err != nil {
		return nil, err
	}
	d["security"] = dict{"peers": peers}
	switch {
	case isAnchor(cfg):
		d["anchor"] = r.derivedAnchor(n)
	case n.mobile():
		d["node"] = r.derivedNode(n)
	default:
		d["gateway"] = r.derivedGateway(n, access)
	}
	return d, nil
}

func (r *Run) derivedAnchor(n *node) dict {
	var gateways, list []any
	known := func(id string) bool {
		return slices.ContainsFunc(list, func(x any) bool { return x.(dict)["id"] == id })
	}
	nodes := false
	for _, p := range r.nodes {
		switch {
		case p.mobile():
			nodes = true
			if !p.spec.Unknown {
				list = append(list, derivedSubscriber(p))
			}
		case r.correspondents[p.name]:
		case p.spec.Kedge != "" && !r.anchors[p.name]:
			gateways = append(gateways, p.name)
		case !p.spec.OnAccess() || p.spec.Unknown || r.sc.Link(p.spec.Ifaces[0].Link).LAN || known(p.spec.Identity(p.index)):
		default:
			sub := dict{"id": p.spec.Identity(p.index), "families": anys(p.spec.Families)}
			for k, v := range p.spec.Profile {
				sub[k] = v
			}
			list = append(list, sub)
		}
	}
	services, addresses := dict{}, []any{n.addrOf(false).String()}
	if len(gateways) > 0 || !nodes {
		services["pmip6"] = dict{"gateways": gateways}
	}
	d := dict{"subscribers": dict{"list": list}}
	if nodes {
		services["dsmip6"] = dict{}
		if a := n.addrOf(true); a.IsValid() {
			addresses = append(addresses, a.String())
		}
		if n.router != nil {
			d["home-link"] = dict{"interface": n.router.lan}
		}
	}
	d["services"], d["addresses"] = services, addresses
	return d
}

func (r *Run) derivedGateway(n *node, access dict) dict {
	var anchors, links []any
	for _, a := range r.nodes {
		if r.anchors[a.name] {
			anchors = append(anchors, dict{"name": a.name, "address": a.addrOf(false).String()})
		}
	}
	table := dict{}
	var hosts []any
	for _, h := range r.nodes {
		if !h.spec.OnAccess() || h.mobile() {
			continue
		}
		if h.spec.ID != "" {
			for _, m := range h.macs() {
				table[m.String()] = h.spec.ID
			}
			// Interfaces that the host gets later are its too.
			walkSteps(r.sc.Steps, func(st *scenario.Step) {
				if st.Move != nil && st.Move.Node == h.name && st.Move.How == "second" {
					table[st.Move.MAC.String()] = h.spec.ID
				}
			})
		}
		if h.spec.Gateway != nil || len(h.spec.Families) == 1 {
			p := dict{"id": h.spec.Identity(h.index), "families": anys(h.spec.Families)}
			for k, v := range h.spec.Gateway {
				p[k] = v
			}
			hosts = append(hosts, p)
		}
	}
	for _, p := range n.spec.On {
		if !r.sc.Link(p.Link).Access {
			continue
		}
		identity := dict{"from": "mac", "realm": scenario.Realm}
		if len(table) > 0 {
			identity["table"] = table
		}
		l := dict{"interface": p.Iface, "identity": identity}
		if p.Technology != "" {
			l["technology"] = p.Technology
		}
		if len(hosts) > 0 {
			l["hosts"] = hosts
		}
		links = append(links, mergeDict(l, access))
	}
	return dict{"address": n.addrOf(false).String(), "anchors": anchors, "access": links}
}

func walkSteps(steps []scenario.Step, f func(*scenario.Step)) {
	for i := range steps {
		f(&steps[i])
		if steps[i].Repeat != nil {
			walkSteps(steps[i].Repeat.Steps, f)
		}
	}
}

// takeAccess removes gateway.access and gives it.
func takeAccess(cfg dict) dict {
	g, _ := cfg["gateway"].(dict)
	a, _ := g["access"].(dict)
	if a != nil {
		delete(g, "access")
	}
	return a
}

func merge2(a, b dict) dict {
	if a == nil {
		a = dict{}
	}
	return mergeDict(a, b)
}

// mergeDict lays b over a: mappings merge, everything else replaces; null removes.
func mergeDict(a, b dict) dict {
	out := dict{}
	for k, v := range a {
		out[k] = v
	}
	for k, v := range b {
		va, ok1 := out[k].(dict)
		vb, ok2 := v.(dict)
		switch {
		case v == nil:
			delete(out, k)
		case ok1 && ok2:
			out[k] = mergeDict(va, vb)
		default:
			out[k] = v
		}
	}
	return out
}

func anys(in []string) []any {
	out := make([]any, len(in))
	for i, s := range in {
		out[i] = s
	}
	return out
}

// readTemplates finds which nodes are anchors or correspondents and which prefixes they serve, before anything is built.
func (r *Run) readTemplates() error {
	for i := range r.sc.Nodes {
		n := &r.sc.Nodes[i]
		if n.Kedge == "" {
			continue
		}
		text, err := r.opt.Files(n.Kedge)
		if err != nil {
			return fmt.Errorf("%s: template: %w", n.Name, err)
		}
		var cfg dict
		if err := yaml.Unmarshal(text, &cfg); err != nil {
			return fmt.Errorf("%s: template %s: %w", n.Name, n.Kedge, err)
		}
		over, _ := n.Config.(dict)
		cfg = mergeDict(cfg, over)
		if isCorrespondent(cfg) {
			r.correspondents[n.Name] = true
		}
		if !isAnchor(cfg) {
			continue
		}
		r.anchors[n.Name] = true
		pools, _ := cfg["anchor"].(dict)["pools"].([]any)
		for _, p := range pools {
			m, _ := p.(dict)
			s, _ := m["prefix"].(string)
			pre, err := netip.ParsePrefix(s)
			if err != nil {
				return fmt.Errorf("%s: pool prefix %q: %w", n.Name, s, err)
			}
			r.pools[n.Name] = append(r.pools[n.Name], pre)
		}
	}
	return nil
}
