package lab

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kedge/internal/core"
)

// host is a machine with an ordinary operating system on access links: the kernel's stack and one DHCP client an interface.
type host struct {
	n       *node
	log     string
	scripts string
	clients map[string]*process // by interface

	mu      sync.Mutex
	addrs   map[string]map[netip.Prefix]int // by interface: address and its kernel flags
	first   map[string]netip.Addr           // by interface and family "eth0 v4": the first usable address ever
	changes int                             // addresses that were usable and went away; of a mobile node, home addresses
	index   map[int]string
	usable  func(ifname string, a netip.Addr, at time.Time) // told of each address that becomes usable
	done    chan struct{}
	on      bool
}

// defaultRoute gives further interfaces a table of their own, chosen by source address: without it all packets of a host with
// two interfaces leave by one, half of them with the other's address. On a mobile node kedge looks after that, and finds
// routes as network managers make them: all in the main table, each link with a metric of its own.
const defaultRoute = `default_route() {
  n=${interface#eth}
  if [ -n "$KEDGE_LAB_METRIC" ]; then ip -4 route replace default via "$2" dev "$interface" metric "10$n"; return; fi
  if [ "$n" = 0 ]; then ip -4 route replace default via "$2" dev "$interface"; return; fi
  ip -4 route replace default via "$2" dev "$interface" table "10$n"
  ip -4 rule del from "$1" 2>/dev/null
  ip -4 rule add from "$1" lookup "10$n"
}`

// dhclientConf asks again soon: with its usual pauses of up to two minutes a client would miss T2 of a lease of seconds.
const dhclientConf = `initial-interval 1;
backoff-cutoff 2;
request subnet-mask, routers, domain-name-servers, domain-name, interface-mtu, time-servers, lpr-servers;
`

// dhclientScript sets addresses and routes for dhclient, and nothing else of the machine: no resolv.conf, no hostname.
const dhclientScript = `#!/bin/sh
` + defaultRoute + `
bits() { n=0; IFS=.; for o in $1; do while [ "$o" -gt 0 ]; do n=$((n + o % 2)); o=$((o / 2)); done; done; unset IFS; echo $n; }
case $reason in
PREINIT) ip link set dev "$interface" up ;;
BOUND|RENEW|REBIND|REBOOT)
  [ -n "$old_ip_address" ] && [ "$old_ip_address" != "$new_ip_address" ] && ip -4 addr flush dev "$interface"
  ip -4 addr replace "$new_ip_address/$(bits "$new_subnet_mask")" dev "$interface" valid_lft "$new_dhcp_lease_time" preferred_lft "$new_dhcp_lease_time"
  [ -n "$new_interface_mtu" ] && ip link set dev "$interface" mtu "$new_interface_mtu"
  for r in $new_routers; do default_route "$new_ip_address" "$r"; break; done ;;
EXPIRE|FAIL|RELEASE|STOP) ip -4 addr flush dev "$interface" ;;
TIMEOUT) exit 1 ;;
esac
exit 0
`

const udhcpcScript = `#!/bin/sh
` + defaultRoute + `
case $1 in
deconfig) ip -4 addr flush dev "$interface"; ip link set dev "$interface" up ;;
bound|renew)
  ip -4 addr show dev "$interface" | grep -q " $ip/" || ip -4 addr flush dev "$interface"
  ip -4 addr replace "$ip/$mask" dev "$interface" valid_lft "$lease" preferred_lft "$lease"
  [ -n "$mtu" ] && ip link set dev "$interface" mtu "$mtu"
  for r in $router; do default_route "$ip" "$r"; break; done ;;
esac
exit 0
`

func (r *Run) newHost(n *node) (*host, error) {
	dir, err := r.workDir(n)
	if err != nil {
		return nil, err
	}
	log := filepath.Join(r.dir, n.spec.Name+".log")
	if n.mobile() {
		log = filepath.Join(r.dir, n.spec.Name+".dhcp.log") // the other is the daemon's
	}
	h := &host{
		n: n, log: log, usable: r.careOf(n), scripts: dir, clients: map[string]*process{},
		addrs: map[string]map[netip.Prefix]int{}, first: map[string]netip.Addr{}, index: map[int]string{}, done: make(chan struct{}),
	}
	for name, text := range map[string]string{"dhclient.conf": dhclientConf, "dhclient-script": dhclientScript, "udhcpc-script": udhcpcScript} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			return nil, err
		}
	}
	return h, h.watch()
}

// watch keeps the list of addresses by the kernel's notifications.
func (h *host) watch() error {
	ch := make(chan netlink.AddrUpdate, 64)
	err := h.n.ns.Do(func() error {
		return netlink.AddrSubscribeWithOptions(ch, h.done, netlink.AddrSubscribeOptions{ListExisting: true})
	})
	if err != nil {
		return fmt.Errorf("%s: watch addresses: %w", h.n.name, err)
	}
	go func() {
		for u := range ch {
			h.update(u)
		}
	}()
	return nil
}

// learnIndexes maps interface numbers to names.
func (h *host) learnIndexes() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, w := range h.n.wires {
		if i := h.n.ns.Index(w.ifname); i > 0 {
			h.index[i] = w.ifname
		}
	}
}

func (h *host) update(u netlink.AddrUpdate) {
	a, ok := netip.AddrFromSlice(u.LinkAddress.IP)
	if !ok {
		return
	}
	a = a.Unmap()
	ones, _ := u.LinkAddress.Mask.Size()
	if !a.IsGlobalUnicast() {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	ifname := h.nameOf(u.LinkIndex)
	if ifname == "" {
		return
	}
	m := h.addrs[ifname]
	if m == nil {
		m = map[netip.Prefix]int{}
		h.addrs[ifname] = m
	}
	p := netip.PrefixFrom(a, ones)
	was, had := m[p]
	if u.NewAddr {
		m[p] = u.Flags
	} else {
		delete(m, p)
	}
	now, has := m[p]
	if had && usable(was) && !(has && usable(now)) && (!h.n.mobile() || ifname == homeDevice) {
		h.changes++
	}
	if has && usable(now) {
		key := ifname + " " + family(a)
		if !h.first[key].IsValid() {
			h.first[key] = a
		}
		if !(had && usable(was)) && h.usable != nil {
			at := time.Now()
			go h.usable(ifname, a, at) // it takes a lock that is held where this host is asked
		}
	}
}

// nameOf is the name of an interface by its number; those of mobile nodes come and go.
func (h *host) nameOf(index int) string {
	if name := h.index[index]; name != "" || h.n.homeDevice() == "" {
		return name
	}
	nl, err := h.n.ns.Handle()
	if err != nil {
		return ""
	}
	l, err := nl.LinkByIndex(index)
	if err != nil {
		return ""
	}
	h.index[index] = l.Attrs().Name
	return l.Attrs().Name
}

// usable says whether applications may use an address with these flags for new connections.
func usable(flags int) bool {
	if flags&unix.IFA_F_DEPRECATED != 0 || flags&unix.IFA_F_DADFAILED != 0 {
		return false
	}
	return flags&unix.IFA_F_TENTATIVE == 0 || flags&unix.IFA_F_OPTIMISTIC != 0
}

func family(a netip.Addr) string {
	if a.Is4() {
		return "v4"
	}
	return "v6"
}

// usableAddrs are the global addresses of a family that applications can use; ifname "" = of all interfaces, of a mobile
// node the home addresses.
func (h *host) usableAddrs(ifname, fam string) []netip.Prefix {
	if ifname == "" {
		ifname = h.n.homeDevice()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []netip.Prefix
	for name, m := range h.addrs {
		for p, flags := range m {
			if (ifname == "" || ifname == name) && usable(flags) && family(p.Addr()) == fam {
				out = append(out, p)
			}
		}
	}
	slices.SortFunc(out, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	return out
}

// firstAddr is the address that the host got first.
func (h *host) firstAddr(ifname, fam string) netip.Addr {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.first[ifname+" "+fam]
}

func (h *host) lost() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.changes
}

// powerOn brings the interfaces up and starts the clients.
func (h *host) powerOn() error {
	if h.n.spec.WireGuard != nil {
		// As the mobile nodes that it is compared with: addresses are used while their uniqueness is tested (RFC 4429).
		for _, w := range h.n.wires {
			for _, k := range []string{"optimistic_dad", "use_optimistic"} {
				if err := h.n.ns.Sysctl("net.ipv6.conf."+w.ifname+"."+k, "1"); err != nil {
					return err
				}
			}
		}
	}
	h.learnIndexes()
	h.on = true
	for _, w := range h.n.wires {
		if err := h.raise(w); err != nil {
			return err
		}
	}
	return nil
}

func (h *host) raise(w *wire) error {
	if err := h.n.ns.Up(w.ifname); err != nil {
		return err
	}
	if h.n.spec.Host == "static" {
		return h.static(w)
	}
	return h.lease(w)
}

// lease starts the DHCP client of an interface, if the host has one.
func (h *host) lease(w *wire) error {
	if h.n.spec.Host == "static" || !slices.Contains(h.n.spec.Families, "v4") {
		return nil
	}
	return h.startClient(w)
}

// endLease stops the client of an interface and forgets the addresses that it had, as network managers do.
func (h *host) endLease(w *wire) {
	if p := h.clients[w.ifname]; p != nil {
		p.kill()
		delete(h.clients, w.ifname)
	}
	for _, a := range h.usableAddrs(w.ifname, "v4") {
		_ = h.n.ns.DelAddr(w.ifname, a) // it may have expired meanwhile
	}
	if h.n.mobile() {
		return // its IPv6 addresses are kedge's own
	}
	for _, a := range h.usableAddrs(w.ifname, "v6") {
		_ = h.n.ns.DelAddr(w.ifname, a)
	}
	h.forgetRouters(w)
}

// forgetRouters removes the routes that Router Advertisements made: without that a host tries the router of the network that
// it has left for three seconds more.
func (h *host) forgetRouters(w *wire) {
	nl, err := h.n.ns.Handle()
	if err != nil {
		return
	}
	all, _ := nl.RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{LinkIndex: h.n.ns.Index(w.ifname), Protocol: unix.RTPROT_RA}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_PROTOCOL)
	for i := range all {
		_ = nl.RouteDel(&all[i]) // it may have expired meanwhile
	}
}

func (h *host) static(w *wire) error {
	for _, p := range h.n.spec.Address {
		if err := h.n.ns.AddAddr(w.ifname, p); err != nil {
			return err
		}
	}
	if r := h.n.spec.Router; r.IsValid() {
		return h.n.ns.Route(netip.PrefixFrom(netip.IPv4Unspecified(), 0), r, w.ifname)
	}
	return nil
}

func (h *host) startClient(w *wire) error {
	file := func(name string) string { return filepath.Join(h.scripts, name+"-"+w.ifname) }
	var argv []string
	switch h.n.spec.Host {
	case "dhclient":
		argv = []string{"dhclient", "-4", "-d", "-v", "-cf", filepath.Join(h.scripts, "dhclient.conf"), "-lf", file("leases"), "-pf", file("pid"), "-sf", filepath.Join(h.scripts, "dhclient-script"), w.ifname}
	case "udhcpc":
		argv = []string{"udhcpc", "-f", "-i", w.ifname, "-t", "10", "-T", "1", "-A", "1", "-O", "mtu", "-s", filepath.Join(h.scripts, "udhcpc-script")}
	case "dhcpcd":
		// Its lease and control files have fixed places, and it looks for its interface in /sys: a mount namespace of its own.
		script := `mount -t tmpfs kl /run && mount -t tmpfs kl /var/lib/dhcpcd && mount -t sysfs kl /sys && exec dhcpcd -B -4 -f /dev/null --script /bin/true "$0"`
		argv = []string{"unshare", "-m", "sh", "-c", script, w.ifname}
	default:
		return nil
	}
	if h.n.mobile() {
		argv = append([]string{"env", "KEDGE_LAB_METRIC=1"}, argv...)
	}
	p, err := start(h.n.ns, h.n.name+" "+h.n.spec.Host, h.log, argv...)
	if err != nil {
		return err
	}
	h.clients[w.ifname] = p
	return nil
}

// signalClient makes udhcpc renew or release its lease at once.
func (h *host) signalClient(s syscall.Signal) error {
	if h.n.spec.Host != "udhcpc" {
		return fmt.Errorf("%s: only udhcpc renews and releases by a signal", h.n.name)
	}
	for _, p := range h.clients {
		p.signal(s)
	}
	return nil
}

// powerOff is a plug pulled: nothing is released, nobody is told.
func (h *host) powerOff() error {
	var errs []error
	for _, w := range h.n.wires {
		errs = append(errs, h.lower(w))
	}
	h.on = false
	return errors.Join(errs...)
}

func (h *host) lower(w *wire) error {
	if p := h.clients[w.ifname]; p != nil {
		p.kill()
		delete(h.clients, w.ifname)
	}
	return h.n.ns.Down(w.ifname)
}

// check reports clients that ended although nobody stopped them.
func (h *host) check() error {
	for name, p := range h.clients {
		if !p.running() {
			return fmt.Errorf("%s: client on %s ended: %v", h.n.name, name, p.err)
		}
	}
	return nil
}

func (h *host) close() {
	for _, p := range h.clients {
		p.kill()
	}
	select {
	case <-h.done:
	default:
		close(h.done)
	}
}

// macs are the MAC addresses of all interfaces.
func (n *node) macs() (out []core.MAC) {
	for _, w := range n.wires {
		if w.mac != (core.MAC{}) {
			out = append(out, w.mac)
		}
	}
	return out
}

// tail is the end of a log, for error messages.
func tail(file string, lines int) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	all := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	return string(bytes.Join(all, []byte("\n")))
}
