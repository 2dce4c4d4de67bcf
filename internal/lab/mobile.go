package lab

import (
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"kedge/internal/ipsec"
	"kedge/internal/lab/ladder"
	"kedge/internal/lab/scenario"
)

// homeDevice is the interface that carries a mobile node's home addresses.
const homeDevice = "kedge0"

// mobile says whether a node is a host that runs kedge in role node.
func (n *node) mobile() bool { return n.spec.Mobile != nil }

// homeDevice is the interface whose addresses are what a host is known by wherever it is; "" = any.
func (n *node) homeDevice() string {
	switch {
	case n.mobile():
		return homeDevice
	case n.spec.WireGuard != nil:
		return wgDevice
	}
	return ""
}

// homeAgentOf is the anchor that a mobile node registers with: the first of the scenario.
func (r *Run) homeAgentOf() *node {
	for _, n := range r.nodes {
		if r.anchors[n.name] {
			return n
		}
	}
	return nil
}

// association is a protection between two nodes, as both config files want it.
type association struct {
	kind     string // esp rfc4285 none
	suite    string
	spi      uint32 // from a to b; the other direction has the next
	fileA    string
	fileB    string
	toA, toB dict // the peer's section in a's and b's file, less name and addresses
}

// associate makes the keys between a, which is the anchor, and b. Keys are those of a user: random, in files of mode 0600.
func (r *Run) associate(a, b *node, kind, suite string) (*association, error) {
	key := a.name + " " + b.name
	if x := r.keys[key]; x != nil {
		return x, nil
	}
	x := &association{kind: kind, suite: suite, spi: 0x1000 + 0x10*uint32(len(r.keys))}
	r.keys[key] = x
	if kind == "none" {
		x.toA, x.toB = dict{"protection": "none"}, dict{"protection": "none"}
		return x, nil
	}
	dir := filepath.Join(r.claim.dir, "keys")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	x.fileA, x.fileB = filepath.Join(dir, a.name+"-"+b.name+".here"), filepath.Join(dir, a.name+"-"+b.name+".there")
	s := ipsec.Suite(suite)
	if kind == "rfc4285" {
		s = ipsec.SuiteRFC4285
	}
	k, err := ipsec.GenerateKeys(s, rand.Reader)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(ipsec.WriteKeys(x.fileA, k), ipsec.WriteKeys(x.fileB, k.Swapped())); err != nil {
		return nil, err
	}
	if kind == "rfc4285" {
		x.toA = dict{"rfc4285": dict{"spi": x.spi, "key-file": x.fileA}}
		x.toB = dict{"rfc4285": dict{"spi": x.spi, "key-file": x.fileB}}
		return x, nil
	}
	here, there := r.pair(x.spi, suite, k, x.fileA, x.fileB)
	if len(r.correspondents) > 0 && b.mobile() { // tests of return routability have an association of their own (RFC 4877 6)
		fileA, fileB := x.fileA+"-rr", x.fileB+"-rr"
		rr, err := ipsec.GenerateKeys(s, rand.Reader)
		if err != nil {
			return nil, err
		}
		if err := errors.Join(ipsec.WriteKeys(fileA, rr), ipsec.WriteKeys(fileB, rr.Swapped())); err != nil {
			return nil, err
		}
		here["return-routability"], there["return-routability"] = r.pair(x.spi+2, suite, rr, fileA, fileB)
	}
	x.toA, x.toB = dict{"esp": here}, dict{"esp": there}
	return x, nil
}

// pair says an association in the words of both config files, and remembers its keys for who reads the captures.
func (r *Run) pair(spi uint32, suite string, k ipsec.Keys, fileA, fileB string) (here, there dict) {
	_, hash, _ := strings.Cut(suite, "-")
	r.recMu.Lock()
	defer r.recMu.Unlock()
	r.sas[spi] = ladder.SA{Encryption: k.Out.Encryption, Integrity: k.Out.Integrity, Hash: hash}
	r.sas[spi+1] = ladder.SA{Encryption: k.In.Encryption, Integrity: k.In.Integrity, Hash: hash}
	return dict{"spi-in": spi + 1, "spi-out": spi, "suite": suite, "key-file": fileA}, dict{"spi-in": spi, "spi-out": spi + 1, "suite": suite, "key-file": fileB}
}

// espTable are the associations of this run as Wireshark's table esp_sa has them.
func (r *Run) espTable() (lines []string) {
	r.recMu.Lock()
	defer r.recMu.Unlock()
	names := map[string]string{"sha1": "HMAC-SHA-1-96 [RFC2404]", "sha256": "HMAC-SHA-256-128 [RFC4868]", "sha384": "HMAC-SHA-384-192 [RFC4868]", "sha512": "HMAC-SHA-512-256 [RFC4868]"}
	for _, spi := range slices.Sorted(maps.Keys(r.sas)) {
		sa, enc := r.sas[spi], "AES-CBC [RFC3602]"
		if len(sa.Encryption) == 0 {
			enc = "NULL"
		}
		lines = append(lines, fmt.Sprintf(`"IPv6","*","*","0x%08x","%s","0x%x","%s","0x%x"`, spi, enc, sa.Encryption, names[sa.Hash], sa.Integrity))
	}
	return lines
}

// tsharkArgs are the options of every tshark: packets in UDP are read, and ESP with the keys of this run, its integrity
// verified. TCP streams are not put together: what is in them is ours, and after a loss, which a segment repeated in other
// pieces follows, that takes minutes and ends in complaints.
func (r *Run) tsharkArgs(file, filter string) []string {
	args := []string{"-r", file, "-d", "udp.port==4191,ip", "-o", "tcp.desegment_tcp_streams:FALSE", "-Y", filter, "-T", "fields", "-e", "frame.number"}
	return append(args, r.tsharkESP()...)
}

func (r *Run) tsharkESP() (args []string) {
	for i, line := range r.espTable() {
		if i == 0 {
			args = append(args, "-o", "esp.enable_encryption_decode:TRUE", "-o", "esp.enable_authentication_check:TRUE")
		}
		args = append(args, "-o", "uat:esp_sa:"+line)
	}
	return args
}

// writeKeys leaves the table beside the captures, for who looks into them: the keys were made for this run and die with it.
func (r *Run) writeKeys() error {
	lines := r.espTable()
	if len(lines) == 0 {
		return nil
	}
	return os.WriteFile(filepath.Join(r.dir, "esp_sa.txt"), []byte(strings.Join(lines, "\n")+"\n"), 0o600)
}

// peersOf are the security.peers of a kedge node: an anchor knows its gateways and the mobile nodes, they know the anchors.
func (r *Run) peersOf(n *node) ([]any, error) {
	var peers []any
	for _, p := range r.nodes {
		if p.spec.Kedge == "" || p == n || r.correspondents[p.name] || r.anchors[p.name] == r.anchors[n.name] {
			continue
		}
		a, b := n, p
		if r.anchors[p.name] {
			a, b = p, n
		}
		kind, suite := protectionOf(b.spec)
		as, err := r.associate(a, b, kind, suite)
		if err != nil {
			return nil, err
		}
		peer := dict{"name": p.name}
		// A mobile node that may go over to another home agent knows which one has which keys.
		if x := p.addrOf(false); x.IsValid() && (!n.mobile() || len(r.anchors) > 1) {
			peer["addresses"] = []any{x.String()}
		}
		if a == n {
			peer = mergeDict(peer, as.toA)
		} else {
			peer = mergeDict(peer, as.toB)
		}
		peers = append(peers, peer)
	}
	return peers, nil
}

// protectionOf is what protects a gateway's or mobile node's signalling with its anchor.
func protectionOf(n *scenario.Node) (kind, suite string) {
	kind, suite = "none", n.Suite
	if n.Mobile != nil {
		kind = "esp"
	}
	if n.Protection != "" {
		kind = n.Protection
	}
	if suite == "" {
		suite = "aes128-sha256"
	}
	return kind, suite
}

// derivedNode is what the network says about a mobile node's config.
func (r *Run) derivedNode(n *node) dict {
	ha, m := r.homeAgentOf(), n.spec.Mobile
	anchor := dict{"dialect": m.Dialect}
	if ha != nil {
		anchor["name"] = ha.name
		addrs := []any{ha.addrOf(false).String()}
		if a := ha.addrOf(true); a.IsValid() {
			addrs = append(addrs, a.String())
		}
		anchor["addresses"] = addrs
	}
	home := dict{"v6": m.V6.String(), "v4": "none"}
	switch {
	case m.Dynamic4:
		home["v4"] = "dynamic"
	case m.V4.IsValid():
		home["v4"] = m.V4.String()
	}
	if list := networksOf(n); len(list) > 0 {
		home["networks"], home["interfaces"] = list, []any{n.router.lan}
	}
	d := dict{"anchor": anchor, "home": home, "links": []any{dict{"match": "eth*"}}}
	if n.spec.ID != "" {
		d["id"] = n.spec.ID
	}
	return d
}

// derivedSubscriber is a mobile node as its home agent knows it.
func derivedSubscriber(n *node) dict {
	m := n.spec.Mobile
	sub := dict{"id": n.spec.Identity(n.index), "hoa": m.V6.String(), "peer": n.name, "v4": "none", "families": []any{"v4", "v6"}}
	switch {
	case m.Dynamic4:
		sub["v4"] = "pool"
	case m.V4.IsValid():
		sub["v4"] = m.V4.Addr().String()
	}
	if list := networksOf(n); len(list) > 0 {
		sub["networks"] = list
	}
	return mergeDict(sub, m.Subscriber)
}

// networksOf are the mobile networks behind a mobile router: those of the LAN that it serves.
func networksOf(n *node) (list []any) {
	if n.router == nil {
		return nil
	}
	for _, p := range []netip.Prefix{n.spec.Serve.V6, n.spec.Serve.V4} {
		if p.IsValid() {
			list = append(list, p.String())
		}
	}
	return list
}
