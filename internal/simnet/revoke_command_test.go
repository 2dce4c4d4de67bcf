package simnet

import (
	"testing"

	"kedge/internal/core"
	"kedge/internal/spec"
)

// TestRevokeCommand: the administrator's word goes all the way: the host loses its addresses, and gets them again when it
// asks and may.
func TestRevokeCommand(t *testing.T) {
	spec.Covers(t, "RFC5846-3.4.1", "RFC5846-9.1")
	d, h := settled(t, options{})
	v4, v6 := h.Addr4, h.Addr6()
	out, err := d.lma.Command(core.Revoke{ID: idOf(h)})
	if err != nil || out != (core.Revoked{Sessions: 1, Told: 1}) {
		t.Fatalf("%+v %v", out, err)
	}
	d.Run(20 * ms)
	if len(d.bindings(d.mags[0], h)) != 0 || h.Addr6().IsValid() {
		t.Errorf("gateway %+v, host %v", d.bindings(d.mags[0], h), h.Addrs6)
	}
	h.Move(d.airs[0])
	d.Run(3 * sec)
	d.at(h, 0)
	if h.Addr4 != v4 || h.Addr6() != v6 {
		t.Errorf("%v and %v, were %v and %v", h.Addr4, h.Addr6(), v4, v6)
	}
	d.pings(h)
	if _, err := d.lma.Command(core.Revoke{ID: idOf(h)}); err != nil {
		t.Error(err)
	}
	h.Move(nil)
	d.Run(60 * sec)
	d.empty()
}
