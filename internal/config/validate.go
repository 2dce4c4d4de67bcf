package config

import (
	"fmt"
	"log/slog"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// validator turns raw structs into a Config and checks values against each other. A value that is already refused is
// zero: a check that needs it says nothing.
type validator struct {
	*decoder
	warnings []Warning
	peers    map[string]Peer
	noHosts  bool // the anchor serves mobile nodes only, which form no address by SLAAC
}

func (v *validator) warn(l located, kind Kind, format string, args ...any) {
	a := l.here()
	v.warnings = append(v.warnings, Warning{File: v.src.file, Line: a.pos.Line, Key: a.path, Kind: kind, Text: fmt.Sprintf(format, args...)})
}

var (
	nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)
	ifForm   = regexp.MustCompile(`^[^\s/:%]{1,15}$`)
	hostForm = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)
)

func (v *validator) file(r *rawFile) *Config {
	c := &Config{Name: v.name(&r.Name)}
	socketName := cmpOr(c.Name, "kedge")
	c.API = API{Socket: cmpOr(r.API.Socket.v, "/run/kedge/"+socketName+".sock"), Metrics: r.API.Metrics.v}
	if len(c.API.Socket) > 107 { // sun_path
		v.fail(&r.API.Socket, "is longer than the 107 octets that a socket path may have", "write a shorter path")
	}
	c.Log = Log{JSON: r.Log.Format.v == "json", Redact: r.Log.Redact.v}
	if err := c.Log.Level.UnmarshalText([]byte(cmpOr(r.Log.Level.v, "info"))); err != nil {
		c.Log.Level = slog.LevelInfo // refused before
	}
	c.Events = Events{File: r.Events.File.v, Keep: r.Events.Keep.v}
	c.Store = Store{Kind: r.Store.Kind.v}
	switch {
	case c.Store.Kind == StoreBolt:
		c.Store.Path = cmpOr(r.Store.Path.v, "/var/lib/kedge/"+socketName+".db")
	case r.Store.Path.set && c.Store.Kind == StoreMem:
		v.fail(&r.Store.Path, "a store of kind mem has no file", "leave path out, or write kind: bolt")
	}
	c.Dataplane = v.dataplane(&r.Dataplane)
	v.security(c, &r.Security)
	if k := &r.Store.Kind; c.Store.Kind == StoreMem && slices.ContainsFunc(c.Peers, func(p Peer) bool { return p.Protection == ProtectionESP }) {
		v.fail(k, "a store of kind mem forgets the sequence numbers of esp, and the peer takes what comes after a restart for replays (RFC 4303 3.3.3)", "write kind: bolt, or leave store out")
	}
	if r.Anchor != nil {
		c.Anchor = v.anchor(c, r.Anchor)
		if c.Store.Kind == StoreMem {
			v.warn(&r.Store, NotDurable, "a restart loses every session, and no address is handed out for one lifetime-max after it")
		}
	}
	if r.Gateway != nil {
		c.Gateway = v.gateway(c, r.Gateway)
	}
	if r.Node != nil {
		c.Node = v.node(c, r.Node)
		if r.Anchor != nil || r.Gateway != nil {
			v.fail(r.Node, "a mobile node is no anchor and no gateway", "write it in a file of its own, for another machine")
		}
	}
	if r.Peer != nil {
		c.Peer = v.correspondent(c, r.Peer, r)
	}
	v.unusedPeers(c, &r.Security)
	v.mobilePeers(c, &r.Security)
	if r.set && r.Anchor == nil && r.Gateway == nil && r.Node == nil && r.Peer == nil && !v.blamed("", "anchor") && !v.blamed("", "gateway") && !v.blamed("", "node") && !v.blamed("", "peer") {
		v.errAt("", position{Line: 1, Col: 1, Len: 1}, "the file gives this daemon no role", "add anchor:, gateway:, node: or peer:")
	}
	if r.Dataplane.Device.set && r.Anchor == nil && r.Gateway != nil && r.Peer == nil {
		v.warn(&r.Dataplane.Device, UnusedSetting, "only an anchor or a node has a TUN interface")
	}
	if t := &r.Dataplane.ThroughStack; t.set && r.Anchor == nil && c.Dataplane.Kind != PlaneUser {
		v.warn(t, UnusedSetting, "it is for what an anchor forwards")
	}
	return c
}

// name checks an identifier that appears in file names, labels and commands.
func (v *validator) name(l *leaf[string]) string {
	if l.v != "" && !nameForm.MatchString(l.v) {
		v.fail(l, fmt.Sprintf("%q is no name", l.v), "write up to 63 lower-case letters, digits and hyphens, as in lma1")
	}
	return l.v
}

func (v *validator) iface(l *leaf[string]) string {
	if l.v != "" && !ifForm.MatchString(l.v) {
		v.fail(l, fmt.Sprintf("%q is no interface name", l.v), "write up to 15 characters without space, slash or colon, as in acc0")
	}
	return l.v
}

// unique refuses an item that stands twice in a list of words.
func (v *validator) unique(what string, items []leaf[string]) {
	seen := map[string]bool{}
	for i := range items {
		if w := items[i].v; w != "" && seen[w] {
			v.fail(&items[i], fmt.Sprintf("%s %q stands twice", what, w), "keep one")
		} else {
			seen[w] = true
		}
	}
}

// empty refuses a list without items, if it is not refused already.
func empty[T any](v *validator, l *list[T], problem, want string) {
	if l.set && len(l.items) == 0 && !v.faulty(l.path) {
		v.fail(l, problem, want)
	}
}

func first(words []string, n int) []string { return words[:min(n, len(words))] }

func (v *validator) families(l *list[leaf[string]]) Families {
	v.unique("family", l.items)
	var f Families
	for _, i := range l.items {
		f.V4 = f.V4 || i.v == "v4"
		f.V6 = f.V6 || i.v == "v6"
	}
	empty(v, l, "is empty", "write [v4], [v6] or [v4, v6]")
	return f
}

// identifier checks an MN-Identifier: a network access identifier of RFC 4282, with or without realm.
func (v *validator) identifier(l *leaf[string]) string {
	switch {
	case l.v == "":
	case len(l.v) > 253:
		v.fail(l, fmt.Sprintf("has %d octets, more than the 253 of a network access identifier (RFC 4282 2.2)", len(l.v)), "write a shorter one")
	case strings.ContainsFunc(l.v, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		v.fail(l, fmt.Sprintf("%q is no network access identifier", l.v), "write it without spaces, as in alice@example.net")
	case strings.Count(l.v, "@") > 1 || strings.HasPrefix(l.v, "@") || strings.HasSuffix(l.v, "@"):
		v.fail(l, fmt.Sprintf("%q is no network access identifier", l.v), "write one name, one @ and one realm, as in alice@example.net (RFC 4282 2.1)")
	}
	return l.v
}

// global checks an address that others must reach us or a peer by.
func (v *validator) global(l *leaf[netip.Addr]) bool {
	a := l.v
	if !a.IsValid() {
		return false
	}
	if a.IsMulticast() || a.IsUnspecified() || a.IsLoopback() || a.IsLinkLocalUnicast() {
		v.fail(l, a.String()+" is no global unicast address", `write one as in "2001:db8:a::1"`)
		return false
	}
	return true
}

func (v *validator) heartbeat(r *rawHeartbeat) Heartbeat {
	h := Heartbeat{Off: r.Interval.v == 0, Interval: r.Interval.v, Timeout: r.Timeout.v, MaxMissing: r.MaxMissing.v}
	switch i := &r.Interval; {
	case h.Off:
	case i.v < minHeartbeat || i.v > maxHeartbeat:
		v.warn(i, BeyondRFC, "HEARTBEAT_INTERVAL SHOULD be %s to %s (RFC 5847 5)", short(minHeartbeat), short(maxHeartbeat))
	}
	if !h.Off && h.Timeout > h.Interval {
		v.fail(&r.Timeout, fmt.Sprintf("%s is longer than the interval of %s", short(h.Timeout), short(h.Interval)), "write less, or leave it out")
	}
	return h
}
