package main

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kedge/internal/api"
	"kedge/internal/core"
	"kedge/wire"
)

// mobile is a node that obeys.
type mobile struct {
	stopped int
	links   []string
	fail    error
}

func (m *mobile) Command(_ context.Context, body any) (any, error) {
	switch c := body.(type) {
	case core.Stop:
		m.stopped++
		return nil, m.fail
	case core.Roam:
		if c.Link == "wlan9" {
			return nil, fmt.Errorf("%w: wlan9 has no care-of address", wire.InterfaceUnsupported)
		}
		m.links = append(m.links, c.Link)
		return nil, nil
	}
	return nil, fmt.Errorf("unexpected %T", body)
}

// control serves a daemon of one role; ended is closed when somebody stopped it.
func control(t *testing.T, role string, m api.Commander) (socket string, ended <-chan struct{}) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "n.sock")
	ctx, stop := context.WithCancel(t.Context())
	s := api.New(api.Config{Socket: socket, Roles: []api.Role{{Name: role, Commander: m}}, Stop: stop})
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer s.Close()
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { stop(); <-done })
	return socket, done
}

// TestStop: a node gives back what it has, others just end; the command comes back when that is done.
func TestStop(t *testing.T) {
	for _, c := range []struct {
		role    string
		fail    error
		stopped int
		code    int
		says    string
	}{
		{"node", nil, 1, 0, "stopped\n"},
		{"gateway", nil, 0, 0, "stopped\n"},
		{"node", fmt.Errorf("the home agent does not answer"), 1, 1, "the home agent does not answer"},
	} {
		m := &mobile{fail: c.fail}
		socket, ended := control(t, c.role, m)
		code, out, errs := kedge(t, "stop", "-s", socket)
		if code != c.code || !strings.Contains(out+errs, c.says) || m.stopped != c.stopped {
			t.Errorf("%s: %d %q, told %d times", c.role, code, out+errs, m.stopped)
		}
		<-ended // also when the deregistration failed
	}
	if code, _, errs := kedge(t, "stop", "-s", filepath.Join(t.TempDir(), "x.sock")); code != exitFailed || !strings.Contains(errs, "no daemon") {
		t.Errorf("%d %s", code, errs)
	}
	gateway, _, _ := daemonAt(t)
	if code, _, errs := kedge(t, "stop", "-s", gateway); code != exitFailed || !strings.Contains(errs, "send it SIGTERM") {
		t.Errorf("%d %s", code, errs)
	}
}

// TestRoam: a node prefers the link that it is told, and nobody else knows the command.
func TestRoam(t *testing.T) {
	m := &mobile{}
	socket, _ := control(t, "node", m)
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"roam", "wlan0", "-s", socket}, 0, ""},
		{[]string{"roam", "-s", socket}, 0, ""},
		{[]string{"roam", "wlan9", "-s", socket}, 1, "wlan9 has no care-of address"},
	} {
		if code, out, errs := kedge(t, c.args...); code != c.code || !strings.Contains(out+errs, c.says) {
			t.Errorf("%v: %d %q", c.args, code, out+errs)
		}
	}
	if strings.Join(m.links, ",") != "wlan0," {
		t.Errorf("%q", m.links)
	}
	gateway, _, _ := daemonAt(t)
	if code, _, errs := kedge(t, "roam", "wlan0", "-s", gateway); code != exitFailed || !strings.Contains(errs, "this daemon is no mobile node") {
		t.Errorf("%d %s", code, errs)
	}
}

// TestLookAtNodes: what a person sees of host registrations and of what protects signalling.
func TestLookAtNodes(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	px, ip := netip.MustParsePrefix, netip.MustParseAddr
	host := core.Binding{ID: "laptop@example.net", State: "active", Kind: "host", Home: []netip.Prefix{px("2001:db8:2000::5/128"), px("10.20.0.2/32")}, IPv4: px("10.20.0.2/32"),
		CareOf: ip("198.51.100.77"), Port: 40001, Framing: "udp", NAT: true, Anchor: ip("203.0.113.1"), Dialect: "rfc5555", Expires: now.Add(9 * time.Minute), Since: now.Add(-3 * time.Second), Protection: "esp"}
	own := core.Binding{ID: "laptop@example.net", State: "active", Kind: "host", Home: []netip.Prefix{px("::ffff:10.20.0.2/128")}, CareOf: ip("2001:db8:51::7"), Framing: "ip",
		Anchor: ip("2001:db8:a::1"), Interface: "wlan0", Dialect: "rfc5555", Protection: "none"}
	proxy := core.Binding{ID: "02-00@example.net", State: "active", Kind: "proxy", Home: []netip.Prefix{px("2001:db8:1000::/64")}, Prefixes: []netip.Prefix{px("2001:db8:1000::/64")},
		CareOf: ip("2001:db8:a::11"), ProxyCoA: ip("2001:db8:a::11"), Gateway: "mag1", Framing: "ip", Dialect: "rfc5844", Protection: "esp"}
	var out bytes.Buffer
	e := &env{stdout: &out}
	var list []api.Binding
	for _, b := range []core.Binding{host, own, proxy} {
		list = append(list, api.Binding{Binding: b})
	}
	if err := writeBindings(e, list, now, ""); err != nil {
		t.Fatal(err)
	}
	same(t, "bindings", `ID                  STATE   PREFIXES            HOME                        GATEWAY  CARE-OF                             ANCHOR         LINK   EXPIRES  SINCE  DIALECT  PROTECTION
laptop@example.net  active                      2001:db8:2000::5,10.20.0.2           udp 198.51.100.77:40001 behind NAT  203.0.113.1           9m0s     3s     rfc5555  esp
laptop@example.net  active                      10.20.0.2                            2001:db8:51::7                      2001:db8:a::1  wlan0                  rfc5555  none
02-00@example.net   active  2001:db8:1000::/64                              mag1                                                                               rfc5844  esp
`, out.String())

	out.Reset()
	if err := writeAssociations(e, []api.Association{
		{Peer: "laptop", Protects: "signalling", Direction: "in", SPI: 0x101, Suite: "aes128-sha256", Sequence: 7, Packets: 7, Replayed: 2, Notes: []string{"make new keys"}},
		{Peer: "laptop", Protects: "return-routability", Direction: "out", SPI: 0x104, Suite: "aes128-sha256", Sequence: 3, Packets: 3,
			Tunnels: []api.Tunnel{{Home: ip("2001:db8:2000::5"), Local: ip("2001:db8:a::1"), Remote: ip("2001:db8:51::7")}}},
		{Peer: "phone", Protects: "signalling", Suite: "rfc4285"},
		{Peer: "lab", Protects: "signalling", Suite: "none"},
	}); err != nil {
		t.Fatal(err)
	}
	same(t, "associations", `
protection of signalling
  PEER    FOR                 DIRECTION  SPI    SUITE          SEQUENCE  PACKETS  REPLAYED
  laptop  signalling          in         0x101  aes128-sha256  7         7        2
  laptop  return-routability  out        0x104  aes128-sha256  3         3
  phone   signalling                            rfc4285
  lab     signalling                            none

  note: laptop, in: make new keys

  tunnel: return-routability for 2001:db8:2000::5 from 2001:db8:a::1 to 2001:db8:51::7, laptop
`, out.String())
}

// TestStopOfAnAnchor: it hears of its end, to say so on its home link (RFC 4861 6.2.5).
func TestStopOfAnAnchor(t *testing.T) {
	m := &mobile{}
	socket, ended := control(t, "anchor", m)
	if code, _, stderr := kedge(t, "stop", "-s", socket); code != 0 || m.stopped != 1 {
		t.Errorf("%d, told %d times: %s", code, m.stopped, stderr)
	}
	<-ended
}
