package ebpf

import (
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/internal/dataplane/conformance"
)

// TestRouterLeftBehind: TCP of a mobile node goes on as soon as there is a way again, although its router went silent, and the kernel still
// looks for it: here for longer than anybody waits.
func TestRouterLeftBehind(t *testing.T) {
	for _, c := range []struct {
		name   string
		end    core.Chain
		silent string // a next hop that nobody has
	}{
		{"over IPv6", tunnelOf(conformance.CoA1, conformance.LMAA, 0), "2001:db8:a::77"},
		{"over IPv4", tunnelOf(coaGateway4, conformance.LMAA4, 0), "198.51.100.77"},
		{"UDP over IPv4", tunnelOf(coaGateway4, conformance.LMAA4, dataplane.PortUDP), "198.51.100.77"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newNode(t, c.end)
			p.sh("host", "sysctl -qw net.ipv6.neigh.wlan0.retrans_time_ms=60000", "sysctl -qw net.ipv4.neigh.wlan0.retrans_time_ms=60000")
			for _, to := range []netip.Addr{conformance.CN6, conformance.CN4} {
				here, there := p.join("host", to, "cn")
				say := func(s string) {
					t.Helper()
					_, err := io.WriteString(here, s)
					must(t, err)
				}
				hear := func(want string) {
					t.Helper()
					b := make([]byte, len(want))
					must(t, there.SetReadDeadline(time.Now().Add(20*time.Second)))
					if _, err := io.ReadFull(there, b); err != nil || string(b) != want {
						t.Fatalf("%q, %v, want %q", b, err, want)
					}
				}
				say("before")
				hear("before")
				remote := c.end.Layer[0].Remote.Addr().String()
				p.sh("host", "ip route add "+remote+" via "+c.silent+" dev wlan0")
				lost := ""
				until(t, "the kernel asks for the router", func() (asks bool) {
					say(".") // the first may go before the programs hear of the route
					lost += "."
					p.in("host", func() error {
						out, err := command("ip", "neigh", "show", c.silent, "dev", "wlan0")
						asks = strings.Contains(out, "INCOMPLETE")
						return err
					})
					return asks
				})
				p.sh("host", "ip route del "+remote+" via "+c.silent+" dev wlan0")
				say(" and after")
				hear(lost + " and after")
				p.sh("host", "ip neigh del "+c.silent+" dev wlan0")
			}
		})
	}
}

// join opens a TCP connection.
func (w *world) join(from string, to netip.Addr, at string) (here, there net.Conn) {
	w.Helper()
	var l net.Listener
	w.in(at, func() (err error) {
		l, err = net.Listen("tcp", ap(to, 5201).String())
		return err
	})
	defer l.Close()
	w.in(from, func() (err error) {
		here, err = net.DialTimeout("tcp", ap(to, 5201).String(), 5*time.Second)
		return err
	})
	w.Cleanup(func() { here.Close() })
	there, err := l.Accept()
	must(w, err)
	w.Cleanup(func() { there.Close() })
	return here, there
}
