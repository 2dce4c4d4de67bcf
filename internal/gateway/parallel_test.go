package gateway

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"kedge/internal/spec"
)

// The note below figure 2 of document 001: tunnel and route on the one hand, DHCPOFFER to DHCPACK on the other go on at the
// same time. With the answer of the anchor the gateway asks for forwarding and offers the address; neither waits for the
// other, and whichever is done last, the session works.
func TestForwardingBesideDHCP(t *testing.T) {
	spec.Covers(t, "S001-3.1-23")
	for _, c := range []struct {
		name string
		late bool // the tunnel is there only after DHCP is through
	}{{"tunnel first", false}, {"tunnel last", true}} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, testConfig())
			b.late = c.late
			b.dhcp(3, macA, dhcpv4.MessageTypeDiscover)
			u := b.pbu()
			b.clock(20 * ms)
			n := len(b.order)
			b.answer(u, reply{})
			if ds := b.dhcps(0); len(ds) != 1 || ds[0].MessageType() != dhcpv4.MessageTypeOffer {
				t.Fatalf("with the answer: %v", ds)
			}
			// Forwarding was asked for before the offer was sent: the packets of a quick host find it under way.
			f := slices.Index(b.order[n:], "core.Forward")
			if s := slices.Index(b.order[n:], "core.Send"); f < 0 || s < f {
				t.Errorf("order %v", b.order[n:])
			}
			if c.late && (len(b.held) != 1 || len(b.emitted("handover")) != 0) {
				t.Fatalf("held %v, events %v", b.held, b.emitted("handover"))
			}
			b.clock(40 * ms)
			offer := b.dhcps(0)[0]
			b.dhcp(3, macA, dhcpv4.MessageTypeRequest, dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(offer.YourIPAddr)),
				dhcpv4.WithOption(dhcpv4.OptServerIdentifier(offer.ServerIdentifier())))
			if ds := b.dhcps(0); len(ds) != 2 || ds[1].MessageType() != dhcpv4.MessageTypeAck || !ds[1].YourIPAddr.Equal(offer.YourIPAddr) {
				t.Fatalf("request: %v", ds)
			}
			b.clock(500 * ms)
			for _, ev := range b.held {
				b.do(ev)
			}
			b.state(macA, active)
			if k := b.keys(); len(k) != 2 || k[netip.PrefixFrom(hoa.Addr(), 32)].Match.MAC != macA || len(b.emitted("handover")) == 0 {
				t.Errorf("keys %v, events %v", k, b.emitted("handover"))
			}
			b.until(5 * sec)
			b.none() // nothing is repeated or taken back
			b.state(macA, active)
		})
	}
}
