package main

import (
	"bytes"
	"crypto/rand"
	"net/netip"
	"reflect"
	"testing"

	"kedge/internal/anchor"
	"kedge/internal/config"
	"kedge/internal/core"
	"kedge/internal/node"
)

const (
	anchorHead = `version: 1
name: lma1
store: { kind: bolt, path: /tmp/lma1.db }
dataplane: { device: tun9, uplink-grace: 1s }
security:
  peers:
    - { name: mag1, addresses: ["2001:db8:a::11"], protection: none }
`
	// everyKey sets what an anchor may be told, and off what is told by leaving out or by a switch.
	everyKey = anchorHead + `anchor:
  addresses: ["2001:db8:a::1"]
  home-link: { interface: lo }
  pools:
    - { name: hnp, domain: 7, prefix: "2001:db8:1000::/36", delegate: 64 }
    - { name: v4, domain: 7, prefix: 10.20.0.0/16, router: 10.20.0.1, reserve: [10.20.0.128/25] }
  services: { pmip6: { gateways: [mag1], dialects: [rfc5844], families: [v4], mobile-node-timestamps: true, link-local: "fe80::7", revoke: false } }
  subscribers:
    default: accept
    families: [v4]
    list:
      - { id: alice@example.net, domain: 7, families: [v6, v4], pmip6: false, v4: 10.20.0.10, hnp: "2001:db8:1000:1::/64", gateways: [mag1] }
      - { id: bob@example.net, domain: 7, pools: [v4, hnp], prefixes: 2 }
  prefixes-per-session: 3
  heartbeat: { interval: 61s, timeout: 5s, max-missing: 4 }
  limits: { sessions: 1000, sessions-per-gateway: 100, requests-per-peer: 2001/s, pending-per-peer: 7 }
  timers: { lifetime-max: 2h, min-delay-before-bce-delete: 11s, max-delay-before-new-bce-assign: 1s, timestamp-window: 1s, bri-max-retries: 2, init-min-delay-bris: 2s, max-brack-timeout: 9s }
`
	hosts = anchorHead + `    - { name: laptop, esp: { spi-in: 0x101, spi-out: 0x102, key-file: k } }
anchor:
  addresses: ["2001:db8:a::1", 198.51.100.1]
  home-link: { interface: home0, dad-transmits: 2, retrans-timer: 2s }
  discovery:
    { preference: 7, lifetime: 20m, advertise: true, interval: 5m, min-interval: 1m, min-delay: 2s, router-lifetime: 40m, managed: true, other: true, requests: 99/s,
      prefix-advertisements: false, prefix-min-interval: 9m, prefix-max-interval: 23h,
      prefixes: [ { prefix: "2001:db8:2000::/64", valid: 10h, preferred: 1h } ] }
  pools:
    - { name: home, prefix: "2001:db8:2000::/48" }
    - { name: v4, prefix: 10.20.0.0/16, lease: 1h }
  services:
    dsmip6: { addresses: ["2001:db8:a::1"], dialects: [rfc5555, draft-soliman-00], families: [v6], force-udp: refuse, nat-refresh: 100s, refresh-advice: 60s,
      refresh-request: 10s, message-id: require, message-id-window: 9s, private-care-of: accept }
  subscribers: { list: [ { id: laptop@example.net, hoa: "2001:db8:2000::5/64", peer: laptop, networks: ["2001:db8:3000::/56"] } ] }
`
	forced = anchorHead + `anchor:
  addresses: ["2001:db8:a::1"]
  pools: [ { name: hnp, prefix: "2001:db8:1000::/36" } ]
  services: { dsmip6: { force-udp: always } }
`
	off = anchorHead + `anchor:
  addresses: ["2001:db8:a::1"]
  pools: [ { name: hnp, prefix: "2001:db8:1000::/36" } ]
  services: { pmip6: { gateways: [mag1], families: [v6] } }
  heartbeat: { interval: 0s }
`
)

// TestEveryAnchorSetting: nothing that an anchor can be told is out of the reach of its file.
func TestEveryAnchorSetting(t *testing.T) {
	set := map[string]bool{}
	var walk func(path string, v reflect.Value)
	walk = func(path string, v reflect.Value) {
		switch {
		case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Struct && v.Type().Elem().PkgPath() != "net/netip":
			for i := range v.Len() {
				walk(path+"[]", v.Index(i))
			}
		case v.Kind() == reflect.Struct && v.Type().PkgPath() != "net/netip":
			for i := range v.NumField() {
				walk(path+"."+v.Type().Field(i).Name, v.Field(i))
			}
		default:
			set[path] = set[path] || !v.IsZero()
		}
	}
	for _, text := range []string{everyKey, hosts, forced, off} {
		cfg, _, err := config.Parse("anchor.yaml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		port := anchor.HomePort{If: 3, MAC: core.MAC{2}, LinkLocal: netip.MustParseAddr("fe80::1"), Prefixes: []netip.Prefix{netip.MustParsePrefix("2001:db8:2000::/64")}}
		walk("", reflect.ValueOf(anchorConfig(cfg, port, true)))
	}
	for path, ok := range set {
		switch path {
		case ".Subscribers.Default.ID": // has none
		case ".Subscribers.Default.Domain", ".Subscribers.Default.Services", ".Subscribers.Default.V4", ".Subscribers.Default.V4Pools",
			".Subscribers.Default.HNP", ".Subscribers.Default.HNPPools", ".Subscribers.Default.Gateways",
			".Subscribers.Default.HoA", ".Subscribers.Default.Peer", ".Subscribers.Default.Networks": // for those that are listed
		default:
			if !ok {
				t.Errorf("no key of the file sets %s", path[1:])
			}
		}
	}
}

// TestEveryNodeSetting: the same for a mobile node.
func TestEveryNodeSetting(t *testing.T) {
	const head = `version: 1
name: laptop
dataplane: { device: tun9, uplink-grace: 1s }
security: { peers: [ { name: ha1, addresses: ["2001:db8:a::1", 198.51.100.1], esp: { spi-in: 0x201, spi-out: 0x202, key-file: k, return-routability: { spi-in: 0x203, spi-out: 0x204, key-file: k2 } } }, { name: ha2, addresses: ["2001:db8:a::2"], rfc4285: { spi: 0x205, key-file: k } } ] }
peer: {}
node:
  anchor: { name: ha1, others: [ha2], discover: true, addresses: ["2001:db8:a::1", 198.51.100.1], dialect: draft-soliman-00, option-length: octets }
  links: [ { match: "wl*", prefer: 10, families: [v4, v6] } ]
  exclude: [192.168.0.0/16]
  id: laptop@example.net
  table: 20000
  retry-v4: true
  unreachable: pass
  dns: direct
  udp: always
  route-optimization: { limit: 63, lifetime: 40s, correspondents: [ { prefix: "2001:db8:d::/64", use: never } ] }
  timers: { lifetime: 12m, refresh-at: 0.7, dead-path: 4s, family-fallback: 200ms, nat-refresh: 100s, first-registration: 2s, retransmit: { first: 2s, max: 30s } }
`
	parse := func(home string) node.Config {
		cfg, _, err := config.Parse("node.yaml", []byte(head+"  home: { v6: \"2001:db8:2000::5/64\", prefixes: [\"2001:db8:2001::/64\"], networks: [\"2001:db8:3000::/56\"], mode: implicit, interfaces: [lan0], v4: "+home+" }\n"))
		if err != nil {
			t.Fatal(err)
		}
		return nodeConfig(cfg, 7)
	}
	v := reflect.ValueOf(parse("10.20.0.5/16"))
	var walk func(path string, v reflect.Value)
	walk = func(path string, v reflect.Value) {
		if v.Kind() == reflect.Struct && v.Type().PkgPath() != "net/netip" {
			for i := range v.NumField() {
				walk(path+"."+v.Type().Field(i).Name, v.Field(i))
			}
			return
		}
		switch {
		case path == ".NoOptimistic": // the kernel's
		case path == ".Anchor.Host": // not together with discover
		case v.IsZero():
			t.Errorf("no key of the file sets %s", path[1:])
		}
	}
	walk("", v)
	if p := parse("none").Anchor.Peers; len(p) != 2 || !p[0].Guarded || p[1].Guarded {
		t.Errorf("who protects tests: %+v", p)
	}
	for home, want := range map[string]node.IPv4{"dynamic": node.IPv4Dynamic, "none": node.IPv4None, "10.20.0.5": node.IPv4Static} {
		c := parse(home)
		if c.Home.IPv4 != want {
			t.Errorf("v4: %s is %v", home, c.Home.IPv4)
		}
		if _, err := node.New(c, rand.Reader); err != nil {
			t.Errorf("v4: %s: %v", home, err)
		}
	}
}

// TestPrintable: what another node chose cannot speak to the terminal.
func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"host@example.net": "host@example.net", "bücher@例え": "bücher@例え",
		"\x1b[2J@x": `\x1b[2J@x`, "a\nb": `a\nb`, "\xff": `\xff`, "\u202egnp": `\u202egnp`,
	} {
		if got := printable(in); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
	tab := newTable("ID")
	tab.add("\x1b]0;x\a")
	var b bytes.Buffer
	if err := tab.write(&b, ""); err != nil || bytes.ContainsAny(b.Bytes(), "\x1b\a") {
		t.Errorf("%q %v", b.String(), err)
	}
}
