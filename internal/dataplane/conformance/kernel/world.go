package kernel

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"kedge/internal/system/netns"
)

// world is network namespaces of one test, without names.
type world struct {
	testing.TB
	spaces map[string]*netns.NS
}

func newWorld(t testing.TB, names ...string) *world {
	t.Helper()
	w := &world{t, map[string]*netns.NS{}}
	for _, name := range names {
		ns, err := netns.Anonymous()
		if err != nil {
			t.Fatalf("network namespaces are needed, and root: %v", err)
		}
		w.spaces[name] = ns
		t.Cleanup(func() { must(t, ns.Close()) })
		w.sysctl(name, "ipv4/conf/all/rp_filter=0", "ipv4/conf/default/rp_filter=0", "ipv6/conf/default/accept_dad=0", "ipv6/conf/all/accept_dad=0",
			"ipv4/icmp_ratemask=0", "ipv6/icmp/ratelimit=0")
	}
	return w
}

// done fails the test on an error in a namespace.
func (w *world) done(space string, err error) {
	w.Helper()
	if err != nil {
		w.Fatalf("%s: %v", space, err)
	}
}

// in runs f on a thread in a namespace.
func (w *world) in(space string, f func() error) {
	w.Helper()
	w.done(space, w.spaces[space].Do(f))
}

// ip runs lines of ip(8) in a namespace.
func (w *world) ip(space string, lines ...string) {
	w.Helper()
	w.done(space, w.spaces[space].IP(w.Context(), lines...))
}

// run runs a command in a namespace.
func (w *world) run(space string, args ...string) {
	w.Helper()
	_, err := w.spaces[space].Run(w.Context(), args[0], args[1:]...)
	w.done(space, err)
}

// sysctl sets settings below net, each name=value.
func (w *world) sysctl(space string, settings ...string) {
	w.Helper()
	for _, s := range settings {
		name, value, _ := strings.Cut(s, "=")
		w.done(space, w.spaces[space].Sysctl("net/"+name, value))
	}
}

// veth joins two namespaces.
func (w *world) veth(a, an, b, bn string, mtu int) {
	w.Helper()
	w.done(a, netns.Veth(netns.End{NS: w.spaces[a], Name: an, MTU: mtu}, netns.End{NS: w.spaces[b], Name: bn, MTU: mtu}))
}

func prefix(a netip.Addr) string { return fmt.Sprintf("%v/%d", a, a.BitLen()) }
