package anchor

import (
	"net/netip"
	"testing"

	"kedge/internal/core"
	"kedge/wire"
	"kedge/wire/mobility"
)

// TestWrongTunnelIsTold: a gateway whose tunnel carries packets of a host that another one serves gets a Binding Error;
// nobody else does, whatever comes out of the core.
func TestWrongTunnelIsTold(t *testing.T) {
	r := start(t)
	report := func(reason wire.Reason, remote netip.Addr, src string) *mobility.BindingError {
		t.Helper()
		n := len(r.sent)
		ev := core.Reported{Reason: string(reason), Outer: core.Layer{Local: netip.AddrPortFrom(lmaa, 0), Remote: netip.AddrPortFrom(remote, 0)}}
		if src != "" {
			ev.Inner.Src = pfx(src)
		}
		r.handle(ev)
		if len(r.sent) == n {
			return nil
		}
		s := r.sent[n]
		if s.Path.Remote.Addr() != remote || s.Path.Local.Addr() != lmaa {
			t.Errorf("told %v from %v", s.Path.Remote, s.Path.Local)
		}
		return s.Body.(*mobility.BindingError)
	}
	for src, home := range map[string]string{"2001:db8:1000::10/128": "2001:db8:1000::10", "10.20.0.10/32": "::ffff:10.20.0.10"} {
		if be := report(wire.WrongTunnel, mag1, src); be == nil || be.Status != mobility.UnknownBinding || be.Home != ip(home) {
			t.Errorf("for %s: %+v", src, be)
		}
	}
	for _, c := range []struct {
		reason wire.Reason
		remote netip.Addr
		src    string
	}{{wire.WrongTunnel, none, "10.20.0.10/32"}, {wire.WrongTunnel, mag3, "10.20.0.10/32"}, {wire.WrongSource, mag1, "10.20.0.10/32"}, {wire.WrongTunnel, mag1, ""}} {
		if be := report(c.reason, c.remote, c.src); be != nil {
			t.Errorf("%+v was told %+v", c, be)
		}
	}
}
