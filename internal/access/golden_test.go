package access

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"kedge/internal/testpcap"
)

// The conversations of real dhclient, udhcpc and dhcpcd with kea and another server, as captured: the clients' messages go
// to a link that grants what their server gave, and its answers must say what that server said.
func TestGoldenConversations(t *testing.T) {
	all := testpcap.Read(t, clients)
	r := newRig(t, config())
	lease := func(a string) Grant {
		return Grant{IPv4: netip.MustParsePrefix(a + "/24"), Router4: addr("10.50.0.1"), Valid: time.Hour}
	}
	// message gives the frame of this number, as tshark counts.
	message := func(n int) *Frame {
		t.Helper()
		f, err := Decode(all[n-1])
		if err != nil {
			t.Fatalf("frame %d: %v", n, err)
		}
		return f
	}
	say := func(n int) result {
		t.Helper()
		return r.result(r.l.Handle(r.now, message(n), nil))
	}
	// like compares with the answer that the real server gave in frame n.
	like := func(m *dhcpv4.DHCPv4, n int) {
		t.Helper()
		want := message(n).Body.(*dhcpv4.DHCPv4)
		if m.TransactionID != want.TransactionID || addr4(m.YourIPAddr) != addr4(want.YourIPAddr) || m.Flags != want.Flags ||
			!bytes.Equal(m.ClientHWAddr, want.ClientHWAddr) || m.MessageType() != want.MessageType() {
			t.Errorf("frame %d:\n%v\nwant\n%v", n, m.Summary(), want.Summary())
		}
		for _, code := range []uint8{1, 3, 54} {
			if !bytes.Equal(m.Options[code], want.Options[code]) {
				t.Errorf("frame %d: option %d is %v, want %v", n, code, m.Options[code], want.Options[code])
			}
		}
		// One of both servers there returned the client identifier.
		if id, ok := want.Options[61]; ok && !bytes.Equal(m.Options[61], id) {
			t.Errorf("frame %d: client identifier %v, want %v", n, m.Options[61], id)
		}
	}

	// The kernel comes up: DAD and MLD reports, then a solicitation. All of it is presence and none is answered yet.
	host := message(7).Src
	for _, n := range []int{7, 11, 12, 13, 15} {
		if a := say(n).silent().attached(); a.MAC != host {
			t.Errorf("frame %d: %+v", n, a)
		}
	}
	// dhclient in INIT-REBOOT, twice; the registration is done in between.
	if a := say(17).silent().attached(); a.Hint != addr("10.50.0.100") || a.Wants != V4 {
		t.Errorf("%+v", a)
	}
	f, m := r.result(r.l.Grant(r.now, host, lease("10.50.0.100"), nil)).dhcp(ack)
	if addr4(m.YourIPAddr) != addr("10.50.0.100") || f.DstIP != addr("10.50.0.100") {
		t.Error(m.Summary())
	}
	say(24).dhcp(ack)
	// udhcpc from the beginning.
	_, m = say(27).dhcp(offer)
	like(m, 28)
	_, m = say(29).dhcp(ack)
	like(m, 30)
	// dhcpcd in INIT-REBOOT asks for an address that is not its own.
	f, m = say(43).dhcp(nak)
	if f.DstIP != all4 || option4(m, 54) != addr("10.50.0.1") || !bytes.Equal(m.Options[61], message(43).Body.(*dhcpv4.DHCPv4).Options[61]) {
		t.Error(m.Summary())
	}
	r.result(r.l.Grant(r.now, host, lease("10.50.0.101"), nil))
	_, m = say(43).dhcp(ack)
	if addr4(m.YourIPAddr) != addr("10.50.0.101") {
		t.Error(m.Summary())
	}
	// udhcpc again, with another server: two DISCOVERs for one OFFER.
	r.result(r.l.Forget(r.now, host, nil))
	say(79).silent()
	_, m = r.result(r.l.Grant(r.now, host, lease("10.50.0.209"), nil)).dhcp(offer)
	like(m, 84)
	_, m = say(85).dhcp(offer)
	like(m, 86)
	_, m = say(87).dhcp(ack)
	like(m, 88)
}
