package lab

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kedge/internal/lab/scenario"
)

// router is what a namespace does for its LAN, by the programs that real routers run: radvd advertises, dnsmasq leases and
// answers names, nftables translates and filters.
type router struct {
	n        *node
	spec     *scenario.Router
	lan      string // interface
	uplinks  []string
	dir, log string
	rebinds  int

	mu     sync.Mutex   // the live screen looks at these
	v6, v4 netip.Prefix // as they are now; invalid = switched off
	closed bool         // captive portal

	radvd, dnsmasq *process
}

// buildRouter gives the LAN's interface its addresses. The programs start with startRouter.
func (r *Run) buildRouter(n *node) error {
	dir, err := r.workDir(n)
	if err != nil {
		return err
	}
	x := &router{n: n, spec: n.spec.Serve, dir: dir, log: filepath.Join(r.dir, n.name+".router.log"), v6: n.spec.Serve.V6, v4: n.spec.Serve.V4, closed: n.spec.Serve.Portal}
	n.router = x
	for _, p := range n.spec.On {
		if r.sc.Link(p.Link).LAN {
			x.lan = p.Iface
		} else {
			x.uplinks = append(x.uplinks, p.Iface)
		}
	}
	for _, p := range x.addresses() {
		if err := n.ns.AddAddr(x.lan, p); err != nil {
			return err
		}
	}
	for _, key := range []string{"nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"} {
		if t := x.spec.UDPTimeout; t > 0 {
			if err := n.ns.Sysctl("net.netfilter."+key, fmt.Sprint(int(t.Seconds()))); err != nil {
				return err
			}
		}
	}
	return x.filter()
}

// String says for people what the network offers; "" without a router.
func (x *router) String() string {
	if x == nil {
		return ""
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	var out []string
	if x.v6.IsValid() {
		out = append(out, x.v6.String())
	}
	switch {
	case x.v4.IsValid() && x.spec.NAT:
		out = append(out, x.v4.String()+" behind a NAT")
	case x.v4.IsValid():
		out = append(out, x.v4.String())
	}
	if x.closed {
		out = append(out, "captive portal")
	}
	return strings.Join(out, ", ")
}

// addresses are the router's own on the LAN: the first of each prefix.
func (x *router) addresses() (out []netip.Prefix) {
	for _, p := range []netip.Prefix{x.v6, x.v4} {
		if p.IsValid() {
			out = append(out, netip.PrefixFrom(p.Addr().Next(), p.Bits()))
		}
	}
	return out
}

// start starts what the families that are on need.
func (x *router) start() error {
	if x.v6.IsValid() && (x.radvd == nil || !x.radvd.running()) {
		file, err := x.write("radvd.conf", x.radvdConf())
		if err != nil {
			return err
		}
		x.radvd, err = start(x.n.ns, x.n.name+" radvd", x.log, "radvd", "-n", "-m", "stderr", "-C", file, "-p", filepath.Join(x.dir, "radvd.pid"))
		if err != nil {
			return fmt.Errorf("%w (Debian package radvd)", err)
		}
	}
	if x.v4.IsValid() && !x.spec.NoDHCP && (x.dnsmasq == nil || !x.dnsmasq.running()) {
		file, err := x.write("dnsmasq.conf", x.dnsmasqConf())
		if err != nil {
			return err
		}
		x.dnsmasq, err = start(x.n.ns, x.n.name+" dnsmasq", x.log, "dnsmasq", "-k", "--log-facility=-", "-C", file)
		if err != nil {
			return fmt.Errorf("%w (Debian package dnsmasq-base)", err)
		}
	}
	return nil
}

func (x *router) write(name, text string) (string, error) {
	file := filepath.Join(x.dir, name)
	return file, os.WriteFile(file, []byte(text), 0o644)
}

// radvdConf advertises often, as RFC 6275 7.5 wants of networks that mobile nodes visit; radvd allows that with the
// Advertisement Interval option only.
func (x *router) radvdConf() string {
	s := x.spec
	var b strings.Builder
	most := s.RAInterval.Seconds()
	least := most * 0.6
	if s.RAInterval >= 4*time.Second {
		least = max(least, 3) // RFC 4861 6.2.1
	}
	fmt.Fprintf(&b, "interface %s {\n  AdvSendAdvert on;\n  MaxRtrAdvInterval %g;\n  MinRtrAdvInterval %g;\n  AdvDefaultLifetime 60;\n", x.lan, most, least)
	if s.RAInterval < 4*time.Second {
		b.WriteString("  AdvIntervalOpt on;\n  MinDelayBetweenRAs 0.03;\n")
	}
	own := "off"
	if s.HomeAgent {
		b.WriteString("  AdvHomeAgentFlag on;\n")
		own = "on" // the prefix information carries the router's whole address (RFC 6275 7.2)
	}
	at := x.v6.Addr()
	if s.HomeAgent {
		at = at.Next()
	}
	fmt.Fprintf(&b, "  prefix %s/%d {\n    AdvOnLink on;\n    AdvAutonomous on;\n    AdvRouterAddr %s;\n    AdvValidLifetime 600;\n    AdvPreferredLifetime 300;\n    DeprecatePrefix on;\n  };\n", at, x.v6.Bits(), own)
	fmt.Fprintf(&b, "  RDNSS %s { AdvRDNSSLifetime 60; };\n};\n", x.v6.Addr().Next())
	return b.String()
}

func (x *router) dnsmasqConf() string {
	var b strings.Builder
	base := binary.BigEndian.Uint32(x.v4.Addr().AsSlice())
	size := uint32(1) << (32 - x.v4.Bits())
	v4 := func(n uint32) netip.Addr {
		return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n)))
	}
	first, last := v4(base+8), v4(base+min(size-2, 7+uint32(x.spec.Leases)))
	mask := v4(^uint32(0) << (32 - x.v4.Bits()))
	fmt.Fprintf(&b, "interface=%s\nbind-interfaces\nexcept-interface=lo\nno-resolv\nno-hosts\nno-ping\nuser=root\n", x.lan)
	fmt.Fprintf(&b, "dhcp-authoritative\ndhcp-range=%s,%s,%s,%d\n", first, last, mask, int(x.spec.Lease.Seconds()))
	fmt.Fprintf(&b, "dhcp-option=option:router,%s\ndhcp-leasefile=%s\npid-file=%s\n", x.v4.Addr().Next(), filepath.Join(x.dir, "leases"), filepath.Join(x.dir, "dnsmasq.pid"))
	for name, a := range x.spec.Names {
		fmt.Fprintf(&b, "address=/%s/%s\n", name, a)
	}
	return b.String()
}

// blocked are the rules for the kinds of packets that a router may refuse.
var blocked = map[string]string{
	"ip4": "meta l4proto 4", "ip41": "meta l4proto 41", "udp": "meta l4proto udp", "mh": "meta l4proto 135", "icmp6": "meta l4proto ipv6-icmp", "tcp": "meta l4proto tcp",
}

// filter writes the router's nftables rules. Each rebinding takes other ports, as a NAT that was restarted would.
func (x *router) filter() error {
	ups := `{ "` + strings.Join(x.uplinks, `", "`) + `" }`
	var b strings.Builder
	b.WriteString("table inet lab {}\ndelete table inet lab\ntable inet lab {\n  chain forward {\n    type filter hook forward priority 0;\n")
	for _, k := range x.spec.Block {
		fmt.Fprintf(&b, "    %s drop\n", blocked[k])
	}
	if x.closed {
		fmt.Fprintf(&b, "    iifname %q drop\n", x.lan)
	}
	b.WriteString("  }\n")
	if x.closed {
		fmt.Fprintf(&b, "  chain pre {\n    type nat hook prerouting priority dstnat;\n    iifname %q tcp dport 80 redirect to :80\n  }\n", x.lan)
	}
	if x.spec.NAT {
		// A NAT says nothing to packets that belong to no mapping; Linux would answer for itself.
		fmt.Fprintf(&b, "  chain input {\n    type filter hook input priority 0;\n    iifname %s meta l4proto { tcp, udp, 4, 41, 135 } ct state new drop\n  }\n", ups)
		fmt.Fprintf(&b, "  chain post {\n    type nat hook postrouting priority srcnat;\n")
		if x.rebinds > 0 {
			from := 20000 + 1000*(x.rebinds%40)
			fmt.Fprintf(&b, "    meta nfproto ipv4 oifname %s meta l4proto { tcp, udp } masquerade to :%d-%d\n", ups, from, from+999)
		}
		fmt.Fprintf(&b, "    meta nfproto ipv4 oifname %s masquerade\n  }\n", ups)
	}
	b.WriteString("}\n")
	var out bytes.Buffer
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(b.String()), &out, &out
	if err := x.n.ns.Do(cmd.Run); err != nil {
		return fmt.Errorf("%s: nft (Debian package nftables): %w: %s\n%s", x.n.name, err, out.String(), b.String())
	}
	return nil
}

// forget empties the table of connections: a NAT that lost its memory.
func (x *router) forget() error {
	return x.n.ns.Do(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
		if err != nil {
			return fmt.Errorf("%s: conntrack: %w", x.n.name, err)
		}
		defer h.Close()
		return h.ConntrackTableFlush(netlink.ConntrackTable)
	})
}

// network changes a LAN as a step says.
func (r *Run) network(s *scenario.Network) error {
	x := r.node(s.At).router
	r.note("network of %s: %s", s.At, strings.TrimSpace(s.Do+" "+prefixes(s.V6, s.V4)))
	switch s.Do {
	case "rebind":
		x.rebinds++
		return errors.Join(x.filter(), x.forget())
	case "open", "close":
		x.mu.Lock()
		x.closed = s.Do == "close"
		x.mu.Unlock()
		return errors.Join(x.filter(), x.forget())
	case "v6-off":
		return x.change(netip.Prefix{}, x.v4, true)
	case "v4-off":
		return x.change(x.v6, netip.Prefix{}, true)
	case "silence":
		return x.change(netip.Prefix{}, netip.Prefix{}, false)
	case "v6-on":
		return x.change(x.spec.V6, x.v4, true)
	case "v4-on":
		return x.change(x.v6, x.spec.V4, true)
	case "renumber":
		v6, v4 := s.V6, s.V4
		if !v6.IsValid() {
			v6 = x.v6
		}
		if !v4.IsValid() {
			v4 = x.v4
		}
		return x.change(v6, v4, true)
	}
	return fmt.Errorf("unknown change %q", s.Do)
}

func prefixes(ps ...netip.Prefix) string {
	var out []string
	for _, p := range ps {
		if p.IsValid() {
			out = append(out, p.String())
		}
	}
	return strings.Join(out, " ")
}

// change gives the LAN other prefixes. Told: radvd says goodbye for what goes (router lifetime 0, prefix deprecated);
// DHCP has no such word, so leases of IPv4 stay with the hosts either way.
func (x *router) change(v6, v4 netip.Prefix, told bool) error {
	old := x.addresses()
	end := func(p *process) error {
		switch {
		case p == nil || !p.running():
			return nil
		case told:
			return p.stop(3 * time.Second)
		}
		p.kill()
		return nil
	}
	var errs []error
	if v6 != x.v6 {
		errs = append(errs, end(x.radvd))
	}
	if v4 != x.v4 {
		errs = append(errs, end(x.dnsmasq))
	}
	x.mu.Lock()
	x.v6, x.v4 = v6, v4
	x.mu.Unlock()
	now := x.addresses()
	for _, p := range old {
		if !slices.Contains(now, p) {
			errs = append(errs, x.n.ns.DelAddr(x.lan, p))
		}
	}
	for _, p := range now {
		errs = append(errs, x.n.ns.AddAddr(x.lan, p))
	}
	return errors.Join(append(errs, x.start())...)
}

// check reports programs that ended although nobody stopped them.
func (x *router) check() error {
	for what, p := range map[string]*process{"radvd": x.radvd, "dnsmasq": x.dnsmasq} {
		on := what == "radvd" && x.v6.IsValid() || what == "dnsmasq" && x.v4.IsValid()
		if p != nil && on && !p.running() {
			return fmt.Errorf("%s: %s ended: %v\n%s", x.n.name, what, p.err, tail(x.log, 12))
		}
	}
	return nil
}

func (x *router) close() {
	for _, p := range []*process{x.radvd, x.dnsmasq} {
		if p != nil {
			p.kill()
		}
	}
}
