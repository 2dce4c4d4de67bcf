package config

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"kedge/internal/core"
	"kedge/internal/spec"
)

var plain = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
	cmpopts.IgnoreUnexported(Config{}),
}

func load(t *testing.T, file string) (*Config, []Warning) {
	t.Helper()
	c, w, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	return c, w
}

// TestExamples: the files that people begin with are right, warn of nothing but missing protection, and fit together.
func TestExamples(t *testing.T) {
	files, err := filepath.Glob("../../examples/*.yaml")
	if err != nil || len(files) < 4 {
		t.Fatalf("examples: %v %v", files, err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			_, warnings := load(t, f)
			for _, w := range warnings {
				if w.Kind != Unprotected {
					t.Errorf("%s", w)
				}
			}
		})
	}
	for _, pair := range [][2]string{{"anchor", "gateway"}, {"anchor-minimal", "gateway-minimal"}, {"homeagent", "node"}, {"homeagent-minimal", "node-minimal"}} {
		a, _ := load(t, "../../examples/"+pair[0]+".yaml")
		g, _ := load(t, "../../examples/"+pair[1]+".yaml")
		if errs, warnings := CheckDomain([]*Config{a, g}); len(errs) > 0 || len(warnings) > 0 {
			t.Errorf("%v: %v %v", pair, errs, warnings)
		}
	}
}

// TestExamplesAreWhole: the commented examples show every key that a section may have.
func TestExamplesAreWhole(t *testing.T) {
	var text []byte
	for _, f := range []string{"anchor", "gateway", "homeagent", "node", "peer"} {
		b, err := os.ReadFile("../../examples/" + f + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, b...)
	}
	walkShape(reflect.TypeFor[rawFile](), "", func(section string, f reflect.StructField) {
		key := f.Tag.Get("yaml")
		if f.Type != reflect.TypeFor[later]() && !bytes.Contains(text, []byte(key+":")) {
			t.Errorf("%s.%s is in no example", section, key)
		}
	})
}

// TestDataplane: every key of the section arrives, and a single word is the kind.
func TestDataplane(t *testing.T) {
	file, err := os.ReadFile("testdata/anchor.yaml")
	if err != nil {
		t.Fatal(err)
	}
	def := Dataplane{Kind: PlaneAuto, Device: "kedge0", UplinkGrace: 500 * time.Millisecond, ReceiveOffload: true, Hold: 10 * time.Minute}
	with := func(f func(*Dataplane)) Dataplane { d := def; f(&d); return d }
	for text, want := range map[string]Dataplane{
		"dataplane: auto":           def,
		"dataplane: {}":             def,
		"dataplane: ebpf":           with(func(d *Dataplane) { d.Kind = PlaneEBPF }),
		"dataplane: \"user\"":       with(func(d *Dataplane) { d.Kind = PlaneUser }),
		"dataplane: { kind: user }": with(func(d *Dataplane) { d.Kind = PlaneUser }),
		"dataplane:\n  kind: ebpf\n  core: [core0, \"eth*\"]\n  sessions: 1_000_000\n  through-stack: on\n  receive-offload: false\n  hold: 30s\n  attach: clsact": {
			Kind: PlaneEBPF, Core: []string{"core0", "eth*"}, Device: "kedge0", UplinkGrace: 500 * time.Millisecond, Sessions: 1_000_000,
			ThroughStack: On, Hold: 30 * time.Second, Attach: AttachClsact,
		},
		"dataplane: { through-stack: off, attach: tcx }": with(func(d *Dataplane) { d.ThroughStack, d.Attach = Off, AttachTCX }),
	} {
		c, warnings, err := Parse("a.yaml", bytes.Replace(file, []byte("anchor:\n"), []byte(text+"\nanchor:\n"), 1))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if diff := cmp.Diff(want, c.Dataplane); diff != "" {
			t.Errorf("%s: -want +got:\n%s", text, diff)
		}
		for _, w := range warnings {
			if strings.HasPrefix(w.Key, "dataplane") {
				t.Errorf("%s: %v", text, w)
			}
		}
	}
	d := Dataplane{Core: []string{"core0", "eth*"}}
	for name, want := range map[string]bool{"core0": true, "core1": false, "eth": true, "eth12": true, "veth1": false} {
		if d.IsCore(name) != want {
			t.Errorf("IsCore(%s) is %v", name, !want)
		}
	}
}

// TestDefaults: the defaults of a minimal file are the RFCs'.
func TestDefaults(t *testing.T) {
	a, _ := load(t, "../../examples/anchor-minimal.yaml")
	ip, px := netip.MustParseAddr, netip.MustParsePrefix
	want := &Config{
		File: "../../examples/anchor-minimal.yaml", Name: "lma1",
		API: API{Socket: "/run/kedge/lma1.sock"}, Events: Events{Keep: 4096}, Store: Store{Kind: StoreBolt, Path: "/var/lib/kedge/lma1.db"},
		Dataplane: Dataplane{Kind: "auto", Device: "kedge0", UplinkGrace: 500 * time.Millisecond, ReceiveOffload: true, Hold: 10 * time.Minute},
		Peers:     []Peer{{Name: "mag1", Addresses: []netip.Prefix{px("2001:db8:a::11/128")}, Protection: "none"}},
		Anchor: &Anchor{
			Addresses: []netip.Addr{ip("2001:db8:a::1")}, DADTransmits: 1, RetransTimer: time.Second,
			Pools: []Pool{
				{Name: "hnp", Prefix: px("2001:db8:1000::/36"), Delegate: 64},
				{Name: "v4", Prefix: px("10.20.0.0/16"), Router: ip("10.20.0.1"), Reserve: []netip.Prefix{px("10.20.0.1/32")}},
			},
			PMIP6: PMIP6{Gateways: []string{"mag1"}, Dialects: []string{DialectRFC5844, DialectDraft02}, Families: Families{true, true}, Revoke: true, LinkLocal: ip("fe80::200:5eff:fe00:5213")},
			Subscribers: Subscribers{Common: Families{true, true},
				List: []Subscriber{{ID: "02-00-00-00-00-0a@example.net", Families: Families{true, true}, Prefixes: 1}}},
			PrefixesPerSession: 1,
			Limits:             AnchorLimits{Sessions: 1_000_000, SessionsPerGateway: 100_000, RequestsPerPeer: 2000, PendingPerPeer: 1000},
			Timers: AnchorTimers{LifetimeMax: time.Hour, MinDelayBeforeBCEDelete: 10 * time.Second,
				MaxDelayBeforeNewBCEAssign: 1500 * time.Millisecond, TimestampWindow: 300 * time.Millisecond,
				BRIMaxRetries: 1, InitMinDelayBRIs: time.Second, MaxBrackTimeout: 2 * time.Second},
			Heartbeat: Heartbeat{Interval: time.Minute, MaxMissing: 3},
		},
	}
	if diff := cmp.Diff(want, a, plain); diff != "" {
		t.Errorf("anchor: -want +got:\n%s", diff)
	}
	g, _ := load(t, "../../examples/gateway-minimal.yaml")
	wantGateway := &Gateway{
		Address: ip("2001:db8:a::11"),
		Anchors: []AnchorRef{{Name: "lma1", Address: ip("2001:db8:a::1"), Dialect: DialectAuto}},
		Access: []Access{{
			Interface: "acc0", LinkLocal: ip("fe80::200:5eff:fe00:5213"), MAC: core.MAC{0x00, 0x00, 0x5e, 0x00, 0x52, 0x13}, Technology: 3,
			AttachOn: []string{"rs", "ns", "na", "arp", "dhcp", "mld", "data", "link", "api"}, DetachOn: []string{"link", "nud", "api"},
			Identity: Identity{Realm: "example.net"}, Families: Families{true, true},
			DHCP4:      DHCP4{Lease: time.Hour, Hold: 10 * time.Second},
			RAInterval: 200 * time.Second, RouterLifetime: 1800 * time.Second,
		}},
		FirstHandoffIndicator: 4,
		Revoke:                true,
		Heartbeat:             Heartbeat{Interval: time.Minute, MaxMissing: 3},
		Limits:                GatewayLimits{Hosts: 100_000, HostsPerAccess: 10_000, Pending: 5000, NewHosts: 500, Triggers: 5},
		Timers: GatewayTimers{Lifetime: 5 * time.Minute, RefreshAt: 0.5, RetransmitFirst: time.Second, RetransmitMax: 32 * time.Second,
			LinkGrace: time.Second, RetryFirst: 5 * time.Second, RetryMax: 5 * time.Minute, IdleHold: 10 * time.Minute, Reregister: time.Second,
			NUDReachable: 30 * time.Second, NUDRetransmit: time.Second, NUDProbes: 3},
	}
	if diff := cmp.Diff(wantGateway, g.Gateway, plain); diff != "" {
		t.Errorf("gateway: -want +got:\n%s", diff)
	}
}

// TestValues: what is written arrives.
func TestValues(t *testing.T) {
	a, _ := load(t, "testdata/anchor.yaml")
	ip, px := netip.MustParseAddr, netip.MustParsePrefix
	wantList := []Subscriber{
		{ID: "alice@example.net", Families: Families{true, true}, V4: ip("10.20.0.10"), HNP: []netip.Prefix{px("2001:db8:1000:1::/64")}, Prefixes: 1},
		{ID: "bob@example.net", Families: Families{V4: true}, V4Pools: []string{"v4"}, Prefixes: 1, Gateways: []string{"mag1"}},
	}
	if diff := cmp.Diff(wantList, a.Anchor.Subscribers.List, plain); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if got, want := a.Anchor.Pools[1].Reserve, []netip.Prefix{px("10.20.0.1/32"), px("10.20.0.128/25")}; !reflect.DeepEqual(got, want) {
		t.Errorf("reserve %v, want %v", got, want)
	}
	if h := a.Anchor.Heartbeat; h.Timeout != 5*time.Second || h.Off {
		t.Errorf("heartbeat %+v", h)
	}
	g, _ := load(t, "testdata/gateway.yaml")
	acc := g.Gateway.Access[0]
	wantDHCP := DHCP4{OwnID: true, Address: ip("10.20.0.2"), Lease: time.Hour, Hold: 10 * time.Second,
		Options: map[uint8][]byte{42: {10, 20, 0, 5, 10, 20, 0, 6}, 66: []byte("tftp.example.net")}}
	if diff := cmp.Diff(wantDHCP, acc.DHCP4, plain); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	wantHosts := []Host{{ID: "alice@example.net", Anchor: "lma1", Families: Families{V4: true}, V4: px("10.20.0.10/16")}}
	if diff := cmp.Diff(wantHosts, acc.Hosts, plain); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if got := acc.Identity.Table[core.MAC{2, 0, 0, 0, 0, 0x0a}]; got != "alice@example.net" {
		t.Errorf("table gives %q", got)
	}
}

func TestPeerOf(t *testing.T) {
	px := netip.MustParsePrefix
	c := &Config{Peers: []Peer{{Name: "all", Addresses: []netip.Prefix{px("2001:db8:a::/64")}}, {Name: "one", Addresses: []netip.Prefix{px("2001:db8:a::11/128")}}}}
	for addr, want := range map[string]string{"2001:db8:a::11": "one", "2001:db8:a::12": "all", "2001:db8:b::1": ""} {
		if p, ok := c.PeerOf(netip.MustParseAddr(addr)); p.Name != want || ok != (want != "") {
			t.Errorf("%s: %q, want %q", addr, p.Name, want)
		}
	}
}

// TestWarnings: what starts, but should be known.
func TestWarnings(t *testing.T) {
	b, err := os.ReadFile("testdata/anchor.yaml")
	if err != nil {
		t.Fatal(err)
	}
	g, err := os.ReadFile("testdata/gateway.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		file           []byte
		old, new, want string
	}{
		{b, "", "", "a.yaml:6: security.peers[0].protection: signalling with peer mag1 is neither authenticated nor encrypted (unprotected)"},
		{b, "kind: bolt, path: /tmp/lma1.db", "kind: mem", "a.yaml:3: store: a restart loses every session, and no address is handed out for one lifetime-max after it (not-durable)"},
		{b, "default: refuse", "default: accept", "a.yaml:16: anchor.subscribers.default: hosts that are not in the list are served (open)"},
		{b, "interval: 60s", "interval: 10s", "a.yaml:22: anchor.heartbeat.interval: HEARTBEAT_INTERVAL SHOULD be 30s to 1h (RFC 5847 5) (beyond-rfc)"},
		{b, "delegate: 64", "delegate: 56", "a.yaml:12: anchor.pools[0].delegate: hosts form addresses by SLAAC only in a /64 (RFC 4862 5.5.3) (beyond-rfc)"},
		{b, "delegate: 64 }", "delegate: 64 } # cut", ""},
		{b, "interface: none", "interface: eth1", "a.yaml:12: anchor.pools[0].prefix: proxy ND on eth1 answers for single addresses, not for home network prefixes of /64 (RFC 5213 5.6.2): neighbours there need a route to 2001:db8:1000::/36 by this anchor (needs-route)"},
		{g, "first: 1s", "first: 200ms", "a.yaml:22: gateway.timers.retransmit.first: INITIAL_BINDACK_TIMEOUT is 1s (RFC 6275 12) (beyond-rfc)"},
		{g, "gateway:\n", "dataplane: { device: tun0 }\ngateway:\n", "a.yaml:6: dataplane.device: only an anchor or a node has a TUN interface (unused)"},
		{g, "gateway:\n", "dataplane: { through-stack: on }\ngateway:\n", "a.yaml:6: dataplane.through-stack: it is for what an anchor forwards (unused)"},
		{b, "anchor:\n", "dataplane: { kind: user, hold: 1m }\nanchor:\n", "a.yaml:8: dataplane.hold: hold is for back end ebpf, and kind is user (unused)"},
	} {
		text := strings.Replace(string(c.file), c.old, c.new, 1)
		if strings.Contains(c.new, "delegate: 56") { // and its static prefix
			text = strings.Replace(text, "2001:db8:1000:1::/64", "2001:db8:1000::/56", 1)
		}
		_, warnings, err := Parse("a.yaml", []byte(text))
		if err != nil {
			t.Errorf("%s: %v", c.new, err)
			continue
		}
		var all []string
		found := c.want == ""
		for _, w := range warnings {
			all = append(all, w.String())
			found = found || w.String() == c.want
		}
		if !found {
			t.Errorf("%s: %q is not among\n%s", c.new, c.want, strings.Join(all, "\n"))
		}
	}
	single := strings.NewReplacer("interface: none", "interface: eth1", "2001:db8:1000::/36\", delegate: 64", "2001:db8:1000::/100\", delegate: 128", "2001:db8:1000:1::/64", "2001:db8:1000::1/128").Replace(string(b))
	if c, w, err := Parse("a.yaml", []byte(single)); err != nil || c.Anchor.Pools[0].Delegate != 128 || slices.ContainsFunc(w, func(w Warning) bool { return w.Kind == NeedsRoute }) {
		t.Errorf("single IPv6 addresses are defended: %v %v", w, err)
	}
	if _, w, err := Parse("a.yaml", bytes.Replace(b, b[bytes.Index(b, []byte("    list:")):bytes.Index(b, []byte("  limits:"))], nil, 1)); err != nil || w[len(w)-1].Kind != NoHost {
		t.Errorf("an anchor that serves nobody: %v %v", w, err)
	}
}

func TestLoadFiles(t *testing.T) {
	dir := t.TempDir()
	if _, _, err := Load(filepath.Join(dir, "none.yaml")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	if _, _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "is a directory") {
		t.Errorf("a directory: %v", err)
	}
	big := filepath.Join(dir, "big.yaml")
	if err := os.Truncate(mustCreate(t, big), MaxFile+1); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Load(big); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("a huge file: %v", err)
	}
	if _, _, err := Parse("x", make([]byte, MaxFile+1)); err == nil {
		t.Error("a huge text is read")
	}
}

func mustCreate(t *testing.T, path string) string {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestLineEnds: positions are an editor's, whatever system wrote the file.
func TestLineEnds(t *testing.T) {
	b, err := os.ReadFile("testdata/anchor.yaml")
	if err != nil {
		t.Fatal(err)
	}
	wrong := bytes.Replace(b, []byte("10.20.0.0/16"), []byte("10.20.0.1/16"), 1)
	want := errorOf(t, wrong)
	for name, text := range map[string][]byte{
		"CRLF": bytes.ReplaceAll(wrong, []byte("\n"), []byte("\r\n")),
		"BOM":  append([]byte("\ufeff"), wrong...),
	} {
		if diff := cmp.Diff(want, errorOf(t, text)); diff != "" {
			t.Errorf("%s: -want +got:\n%s", name, diff)
		}
	}
}

func errorOf(t *testing.T, text []byte) string {
	t.Helper()
	_, _, err := Parse("a.yaml", text)
	if err == nil {
		t.Fatal("no error")
	}
	return err.Error()
}

// TestManySubscribers: a list of many subscribers is read in reasonable time, and the cap on reported errors holds.
func TestManySubscribers(t *testing.T) {
	b, err := os.ReadFile("testdata/anchor.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var list strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&list, "      - { id: u%d@example.net, v4: 10.20.%d.%d }\n", i, 1+i/200, 1+i%200)
	}
	text := strings.Replace(string(b), "    list:\n", "    list:\n"+list.String(), 1)
	c, _, err := Parse("a.yaml", []byte(text))
	if err != nil || len(c.Anchor.Subscribers.List) != 2002 {
		t.Fatalf("%v", err)
	}
	_, _, err = Parse("a.yaml", []byte(strings.ReplaceAll(text, "v4: 10.20.1.", "v4: 10.30.1.")))
	var es Errors
	if !errors.As(err, &es) || len(es) != maxErrors {
		t.Errorf("%d errors are reported, want %d", len(es), maxErrors)
	}
}

// TestReference: docs/config.md is what the structs say.
func TestReference(t *testing.T) {
	const file = "../../docs/config.md"
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(Reference()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Reference(), string(got)); diff != "" {
		t.Errorf("docs/config.md is not what the code says; run go test ./internal/config -update\n%s", diff)
	}
	// Every default is readable and within its own range, and every key has words of its own.
	walkShape(reflect.TypeFor[rawFile](), "", func(section string, f reflect.StructField) {
		if f.Tag.Get("doc") == "" {
			t.Errorf("%s.%s has no doc", section, f.Tag.Get("yaml"))
		}
		if f.Type.Kind() != reflect.Pointer && isSection(f.Type) {
			return
		}
		if p, ok := reflect.New(f.Type).Interface().(interface {
			decodable
			setDefault(string)
		}); ok && f.Tag.Get("def") != "" {
			p.setDefault(f.Tag.Get("def")) // panics if it cannot be read
		}
	})
}

// TestDomain: gateways of one domain must look alike to hosts, in every option that DHCP tells.
func TestDomain(t *testing.T) {
	b, err := os.ReadFile("testdata/gateway.yaml")
	if err != nil {
		t.Fatal(err)
	}
	parse := func(file, text string) *Config {
		c, _, err := Parse(file, []byte(text))
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		return c
	}
	one := parse("mag1.yaml", string(b))
	second := strings.NewReplacer("name: mag1", "name: mag2", "2001:db8:a::11", "2001:db8:a::12", "10.20.0.2,", "10.20.0.3,").Replace(string(b))
	for _, c := range []struct{ name, old, new, want string }{
		{"alike", "", "", ""},
		{"MAC", "02:00:5e:00:00:01", "02:00:5e:00:00:02", `mag2.yaml:11:45: gateway.access[0].router.mac: is 02:00:5e:00:00:02, but 02:00:5e:00:00:01 on mag1.yaml:11; write the same on every gateway of a domain: a host that moves silently keeps the router's MAC address in its cache`},
		{"link-local", `"fe80::1"`, `"fe80::2"`, `mag2.yaml:11:29: gateway.access[0].router.link-local: is fe80::2, but fe80::1 on mag1.yaml:11; write the same on every gateway of a domain: hosts keep their default router when they move (RFC 5213 6.9.3)`},
		{"default link-local", `link-local: "fe80::1", `, ``, `mag2.yaml:11:15: gateway.access[0].router.link-local: is fe80::200:5eff:fe00:5213, but fe80::1 on mag1.yaml:11; write the same on every gateway of a domain: hosts keep their default router when they move (RFC 5213 6.9.3)`},
		{"dns", "10.20.0.53, ", "", `mag2.yaml:17:12: gateway.access[0].dns: is [2001:db8::53], but [10.20.0.53 2001:db8::53] on mag1.yaml:17; write the same on every gateway of a domain: hosts keep their name servers when they move (RFC 5844 3.4.1)`},
		{"search", "search: [example.net]", "search: [example.com]", `mag2.yaml:18:15: gateway.access[0].search: is [example.com], but [example.net] on mag1.yaml:18; write the same on every gateway of a domain: hosts keep their search domains when they move (RFC 5844 3.4.1)`},
		{"mtu", "mtu: 1400", "mtu: 1300", `mag2.yaml:19:12: gateway.access[0].mtu: is 1300, but 1400 on mag1.yaml:19; write the same on every gateway of a domain: hosts keep their MTU when they move`},
		{"server id", "server-id: own", "server-id: fixed", `mag2.yaml:20:41: gateway.access[0].dhcp4.server-id: is fixed, but own on mag1.yaml:20; write the same on every gateway of a domain: hosts must find their server when they renew`},
		{"lease", "lease: 1h", "lease: 2h", `mag2.yaml:20:73: gateway.access[0].dhcp4.lease: is 2h, but 1h on mag1.yaml:20; write the same on every gateway of a domain: leases must not depend on where a host is`},
		{"option value", "10.20.0.6]", "10.20.0.7]", `mag2.yaml:20:92: gateway.access[0].dhcp4.options.42: is 0a1400050a140007, but 0a1400050a140006 on mag1.yaml:20; write the same on every gateway of a domain: hosts keep their options when they move (RFC 5844 3.4.1)`},
		{"option missing", ", 66: tftp.example.net", "", `mag2.yaml:20:86: gateway.access[0].dhcp4.options.66: is not set, but 746674702e6578616d706c652e6e6574 on mag1.yaml:20; write the same on every gateway of a domain: hosts keep their options when they move (RFC 5844 3.4.1)`},
		{"option more", "66: tftp.example.net", "66: tftp.example.net, 4: 10.20.0.5", `mag2.yaml:20:141: gateway.access[0].dhcp4.options.4: is 0a140005, but not set on mag1.yaml:20; write the same on every gateway of a domain: hosts keep their options when they move (RFC 5844 3.4.1)`},
		{"same own server id", "10.20.0.3,", "10.20.0.2,", `mag2.yaml:20:55: gateway.access[0].dhcp4.address: 10.20.0.2 is the server identifier of mag1.yaml too; own means a different one on each gateway`},
		{"same address", `address: "2001:db8:a::12"`, `address: "2001:db8:a::11"`, `mag2.yaml:7:12: gateway.address: 2001:db8:a::11 is the address of mag1.yaml too; each gateway needs its own Proxy-CoA`},
		{"same name", "name: mag2", "name: mag1", `mag2.yaml:2:7: name: "mag1" is the name of mag1.yaml too; give each daemon a name of its own`},
		{"ordering", "  timers:", "  ordering: sequence\n  timers:", `mag2.yaml:22:13: gateway.ordering: differs from mag1.yaml; TimestampBasedApproachInUse is one for the domain (RFC 5213 9.3)`},
		{"another domain", `2001:db8:a::1"`, `2001:db8:f::1"`, ``},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := second
			if c.old != "" {
				if !strings.Contains(text, c.old) {
					t.Fatalf("%q is not in the file", c.old)
				}
				text = strings.ReplaceAll(text, c.old, c.new)
			}
			if c.name == "another domain" {
				text = strings.ReplaceAll(text, "02:00:5e:00:00:01", "02:00:5e:00:00:99")
			}
			errs, _ := CheckDomain([]*Config{one, parse("mag2.yaml", text)})
			got := ""
			if len(errs) > 0 {
				got, _, _ = strings.Cut(errs.Error(), "\n")
				if e := errs[0]; !strings.HasSuffix(e.Error(), "^") || len(errs) != 1 {
					t.Errorf("no caret, or more than one error: %v", errs)
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
	spec.Covers(t, "S001-3.1-15")
}

// TestDomainWithAnchor: both ends of signalling are compared.
func TestDomainWithAnchor(t *testing.T) {
	a, _ := load(t, "testdata/anchor.yaml")
	gw, err := os.ReadFile("testdata/gateway.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ old, new, want string }{
		{"", "", ""},
		{`address: "2001:db8:a::11"`, `address: "2001:db8:a::77"`, "2001:db8:a::77 may not register hosts with lma1: add it to security.peers and services.pmip6.gateways there"},
		{"dialect: auto", "dialect: draft-pmip6-v4-02", "lma1 does not answer the dialect draft-pmip6-v4-02"},
		{"lifetime: 5m", "lifetime: 2h", "lma1 grants at most 1h"},
		{"id: alice@example.net", "id: carol@example.net", "lma1 does not know carol@example.net"},
		{"10.20.0.10/16", "10.20.0.11/16", "lma1 has 10.20.0.10 for alice@example.net"},
		{"10.20.0.10/16", "10.20.0.10/24", "lma1 has the home network 10.20.0.0/16"},
	} {
		g, _, err := Parse("mag1.yaml", []byte(strings.Replace(string(gw), c.old, c.new, 1)))
		if err != nil {
			t.Fatal(err)
		}
		errs, warnings := CheckDomain([]*Config{a, g})
		var got []string
		for _, w := range warnings {
			got = append(got, w.Text)
		}
		if len(errs) > 0 || strings.Join(got, "\n") != c.want {
			t.Errorf("%s: %v %q, want %q", c.new, errs, got, c.want)
		}
	}
}

// FuzzLoad: whatever a file holds, the answer is a config or errors with positions inside the file.
func FuzzLoad(f *testing.F) {
	for _, pattern := range []string{"../../examples/*.yaml", "testdata/*.yaml"} {
		files, _ := filepath.Glob(pattern)
		for _, file := range files {
			if b, err := os.ReadFile(file); err == nil {
				f.Add(b)
			}
		}
	}
	for _, s := range []string{"", "a", "- ", "{", "version: 1\nname: x\nanchor: {addresses: [::]}", "a: &x [*x]", "? a\n: b", "a: |\n  b", "\"\\xff\": 1", "a:\n\t- b", strings.Repeat("- ", 100) + "a", strings.Repeat("{a: ", 100)} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, _, err := Parse("f.yaml", b)
		if err == nil {
			if c.Anchor == nil && c.Gateway == nil && c.Node == nil && c.Peer == nil {
				t.Fatal("a config without role")
			}
			return
		}
		var es Errors
		if !errors.As(err, &es) {
			t.Fatalf("no Errors: %v", err)
		}
		lines := bytes.Count(bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")), []byte("\n")) + 1
		for _, e := range es {
			if e.Line < 1 || e.Line > lines+1 || e.Col < 1 || e.Problem == "" {
				t.Fatalf("%d:%d of %d lines: %q", e.Line, e.Col, lines, e.Problem)
			}
		}
		_ = es.Error()
	})
}
