package uml

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"kedge/internal/spec"
	"kedge/internal/system/netns"
	"kedge/wire/ip"
)

// TestUpdatesToGuest: this kernel is the home agent, by its ESP, Home Address option, type 2 routing header and ip6_tunnel; our daemon is the
// mobile node.
func TestUpdatesToGuest(t *testing.T) {
	t.Parallel()
	spec.Covers(t, "S004-3.3-15", "S004-4-02")
	s := newSite(t, espModules...)
	s.tunnelled()
	s.ip(fmt.Sprintf("addr add %v/64 dev vec0 nodad", lmaa6), fmt.Sprintf("addr add %v/128 dev lo nodad", cn6))
	s.ip(tunnels[1].lines(true)...)
	s.ip(fmt.Sprintf("route add %v dev t0 src %v", hoa6, cn6))
	s.at(s.edge, fmt.Sprintf("addr add %v/64 dev eth0 nodad", coa6), fmt.Sprintf("route add ::/0 via %v", lmaa6))
	app := side{"mobile node", s.edge}
	s.echoes(guestSide, cn6)
	acks := s.g.Start("guest", "agent", lmaa6.String())
	t.Cleanup(acks.Stop)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	line := func(t *testing.T) string {
		t.Helper()
		l, err := acks.Line(ctx)
		netns.Must(t, err)
		return l
	}
	if l := line(t); l != "ready" {
		t.Fatal(l)
	}
	r := s.record()
	for _, suite := range suites {
		t.Run(string(suite), func(t *testing.T) {
			s, dir := s.on(t), t.TempDir()
			k := newKeys(t, dir, "ha1", suite)
			t.Cleanup(func() { s.ip("xfrm state flush", "xfrm policy flush") })
			s.protected(false, k, lmaa6, hoa6, coa6)
			before := s.refused()
			d := s.daemon(dir, "laptop", fmt.Sprintf(`
security: { peers: [ { name: ha1, esp: { spi-in: %#x, spi-out: %#x, suite: %s, key-file: %s } } ] }
node:
  anchor: { name: ha1, addresses: ["%v"] }
  home: { v6: "%v/64", v4: none }
  links: [ { match: "eth*" } ]
  timers: { lifetime: 400s }
`, spiToNode, spiToAgent, suite, k.File, lmaa6, hoa6))
			l := line(t)
			if !strings.HasPrefix(l, fmt.Sprintf("update from %v careof %v acknowledge true home true sequence ", hoa6, coa6)) || !strings.HasSuffix(l, " lifetime 6m40s") {
				t.Errorf("the home agent says %q", l)
			}
			d.Bound("active", coa6)
			s.echoes(app, hoa6)
			s.talk(app, cn6, 1<<18, "1000", "4000")
			s.talk(guestSide, hoa6, 1<<18, "1000", "4000")

			bu, ba := r.last(coa6, lmaa6, ip.DstOpts), r.last(lmaa6, coa6, ip.Routing)
			for _, f := range [][]byte{bu, altered(bu)} {
				netns.Must(t, r.in.Write(f))
			}
			for _, f := range [][]byte{ba, altered(ba)} {
				netns.Must(t, r.out.Write(f))
			}
			s.until(func() error {
				if a := d.Association(spi(spiToNode)); a.Packets != 1 || a.BadICV != 1 || a.Replayed != 1 {
					return fmt.Errorf("our association is %+v, want 1 packet, one replayed and one altered", a)
				}
				return nil
			})
			s.until(func() error { return before.and(s.refused(), "XfrmInStateSeqError", "XfrmInStateProtoError") })
			netns.Must(t, d.Stop(ctx))
			if l := line(t); !strings.HasPrefix(l, fmt.Sprintf("update from %v ", hoa6)) || !strings.HasSuffix(l, " lifetime 0s") {
				t.Errorf("the home agent says %q at the end", l)
			}
			if err := before.and(s.refused(), "XfrmInStateSeqError", "XfrmInStateProtoError"); err != nil {
				t.Error(err)
			}
		})
	}
}
