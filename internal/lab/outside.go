package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
)

// What applications on a host do besides probes: they ask a name server, fetch a page, and let the kernel choose from where.

// outsideWait is how long a question or a page may take.
const outsideWait = 800 * time.Millisecond

// lookup asks a name server for the IPv4 address of a name, as "NAME@SERVER" says.
func (r *Run) lookup(ctx context.Context, n *node, question, want string) (bool, string) {
	name, server, _ := strings.Cut(question, "@")
	at, err := r.address(server)
	if err != nil {
		return false, err.Error()
	}
	ctx, cancel := context.WithTimeout(ctx, outsideWait)
	defer cancel()
	res := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (c net.Conn, err error) {
		err = n.ns.Do(func() (err error) {
			var d net.Dialer
			c, err = d.DialContext(ctx, "udp", netip.AddrPortFrom(at, 53).String())
			return err
		})
		return c, err
	}}
	got, err := res.LookupNetIP(ctx, "ip4", name+".")
	switch {
	case want == "none" && err != nil:
		return true, ""
	case err != nil:
		return false, fmt.Sprintf("asks %s: %v", server, err)
	}
	return slices.ContainsFunc(got, func(a netip.Addr) bool { return a.Unmap().String() == want }), fmt.Sprintf("is told %v by %s, want %s", got, server, want)
}

// fetch gets a page by HTTP and looks for a text in it; "none" = it must not come.
func (r *Run) fetch(ctx context.Context, n *node, from, want string) (bool, string) {
	at, err := r.address(from)
	if err != nil {
		return false, err.Error()
	}
	ctx, cancel := context.WithTimeout(ctx, outsideWait)
	defer cancel()
	t := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, to string) (c net.Conn, err error) {
		err = n.ns.Do(func() (err error) {
			var d net.Dialer
			d.SetMultipathTCP(false)
			c, err = d.DialContext(ctx, network, to)
			return err
		})
		return c, err
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+netip.AddrPortFrom(at, 80).String()+"/", nil)
	if err != nil {
		return false, err.Error()
	}
	resp, err := t.RoundTrip(req)
	if err != nil {
		return want == "none", fmt.Sprintf("fetches from %s: %v", from, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	return err == nil && strings.Contains(string(body), want), fmt.Sprintf("reads %q from %s, want %s", body, from, want)
}

// serveWeb answers each page with the node's name.
func (r *Run) serveWeb(n *node) error {
	var l net.Listener
	err := n.ns.Do(func() (err error) { l, err = net.Listen("tcp", ":80"); return err })
	if err != nil {
		return fmt.Errorf("%s: web server: %w", n.name, err)
	}
	s := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		from, _, _ := net.SplitHostPort(q.RemoteAddr)
		fmt.Fprintf(w, "this is %s, you are %s\n", n.name, from)
	})}
	r.webs = append(r.webs, s)
	go func() { _ = s.Serve(l) }() // until Close
	return nil
}

// serveNames starts a name server on a host that is no router.
func (r *Run) serveNames(n *node) error {
	dir, err := r.workDir(n)
	if err != nil {
		return err
	}
	args := []string{"dnsmasq", "-k", "--log-facility=-", "--log-queries", "-C", "/dev/null", "-R", "-h", "-u", "root", "-x", filepath.Join(dir, "dns.pid")}
	for name, a := range n.spec.DNS {
		args = append(args, fmt.Sprintf("--address=/%s/%s", name, a))
	}
	p, err := start(n.ns, n.name+" dnsmasq", filepath.Join(r.dir, n.name+".dns.log"), args...)
	r.others = append(r.others, p)
	return err
}

// clean says whether a host is as it was before kedge ran: no device, rule or routing table of it is left.
func (r *Run) clean(n *node) (bool, string) {
	if _, err := n.ns.Link(homeDevice); err == nil {
		return false, "still has " + homeDevice
	}
	h, err := n.ns.Handle()
	if err != nil {
		return false, err.Error()
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		rules, err := h.RuleList(family)
		if err != nil {
			return false, err.Error()
		}
		for _, x := range rules {
			if x.Priority != 0 && x.Priority < 32766 {
				return false, fmt.Sprintf("still has the rule %v", x)
			}
		}
		routes, err := h.RouteListFiltered(family, &netlink.Route{}, netlink.RT_FILTER_TABLE)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return false, err.Error()
		}
		for _, x := range routes {
			if x.Table != 254 && x.Table != 255 && x.Table != 0 {
				return false, fmt.Sprintf("still has the route %v", x)
			}
		}
	}
	for _, w := range n.wires {
		if got, err := n.ns.GetSysctl("net.ipv6.conf." + w.ifname + ".autoconf"); err == nil && strings.TrimSpace(got) != "1" {
			return false, fmt.Sprintf("%s: autoconf is %s", w.ifname, got)
		}
	}
	return true, ""
}
