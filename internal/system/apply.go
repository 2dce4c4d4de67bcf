package system

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kedge/internal/core"
)

// HostError is an operation that the kernel refused.
type HostError struct {
	Op   core.HostOp
	Hint string // what to do, may be empty
	Err  error
}

// Error names the operation, its object and what to do about it.
func (e *HostError) Error() string {
	s := fmt.Sprintf("%s: %v", describe(e.Op), e.Err)
	if e.Hint != "" {
		s += ": " + e.Hint
	}
	return s
}

// Unwrap gives the cause.
func (e *HostError) Unwrap() error { return e.Err }

// hinted is a cause that knows its remedy.
type hinted struct {
	err  error
	hint string
}

func (e *hinted) Error() string { return e.err.Error() }
func (e *hinted) Unwrap() error { return e.err }

// describe writes an operation as a person would: "add route 2001:db8::/36 dev kedge0".
func describe(op core.HostOp) string {
	var b strings.Builder
	verb := "set "
	switch {
	case op.Del:
		verb = "remove "
	case strings.HasSuffix(op.Kind, " port") || op.Kind == "access link":
		verb = "open "
	}
	b.WriteString(verb + op.Kind)
	if op.Prefix.IsValid() {
		b.WriteString(" " + op.Prefix.String())
	}
	if op.Via.IsValid() {
		b.WriteString(" via " + op.Via.String())
	}
	switch {
	case op.Kind == "sysctl":
		b.WriteString(" " + op.Name)
	case op.Name != "":
		b.WriteString(" dev " + op.Name)
	case op.If != 0:
		fmt.Fprintf(&b, " dev #%d", op.If)
	}
	if op.MAC != (core.MAC{}) {
		b.WriteString(" mac " + op.MAC.String())
	}
	if op.Src.IsValid() {
		b.WriteString(" src " + op.Src.String())
	}
	if op.Metric != 0 {
		fmt.Fprintf(&b, " metric %d", op.Metric)
	}
	if op.MTU != 0 {
		fmt.Fprintf(&b, " mtu %d", op.MTU)
	}
	if op.Table != 0 {
		fmt.Fprintf(&b, " table %d", op.Table)
	}
	if op.Value != "" {
		b.WriteString(" " + op.Value)
	}
	return b.String()
}

// Apply carries out operations in order; it stops at the first that fails with a *core.OpError around a *HostError. Every
// operation is idempotent: setting what is set and removing what is not there succeed. Del removes only what carries our
// tag; setting never replaces a route, neighbour or proxy of somebody else, it fails instead.
//
//	route      Prefix, by Via, to Name or If, or both (then Via need not be in a prefix of the link); Src, the source it prefers;
//	           Table (0 = main); Metric (0: the kernel's, 1024 in IPv6); MTU; Value: unreachable, blackhole or prohibit, "advmss N".
//	           Routes of a table to one prefix differ by their metric: setting one with the same replaces it
//	rule       packets from Prefix (Value "to": to Prefix; ::/0 and 0.0.0.0/0: all of a family), in by Name, look up Table; Value
//	           may add "priority N", "dport N", and "suppress N": a route found there counts only if its prefix is longer than N.
//	           "goto N" goes on at priority N, and has no Table
//	address    Prefix on Name or If; Value, words: "nodad" (IPv6), usable at once; "optimistic" (IPv6, RFC 4429), usable while
//	           duplicate address detection runs; "noprefixroute", without a route to its prefix; "deprecated", only for
//	           connections that have it (RFC 4862 5.5.4). Setting it again changes the last two
//	link       of Name or If: Value up or down, MTU, MAC
//	neighbour  Prefix (a single address) has MAC on Name or If
//	proxy      Prefix (a single address) is answered for by ND or ARP on Name or If; IPv6 switches proxy_ndp on there. Value "router": as a
//	           router (the R flag of Neighbor Advertisements)
//	           Linux answers ARP for it only when it forwards on that link and routes the address elsewhere
//	anycast    Prefix (a single IPv6 address) is one that this host answers for on Name or If beside others, as long as the process
//	           lives; packets to it are taken by an "ip" port
//	sysctl     Name (net.…, separated by dots or slashes) = Value; Del puts the old value back
func (h *Host) Apply(ops []core.HostOp) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, op := range ops {
		if err := h.apply(op); err != nil {
			return &core.OpError{Index: i, Err: explain(op, err)}
		}
	}
	return nil
}

func (h *Host) apply(op core.HostOp) error {
	switch op.Kind {
	case "route":
		return h.route(op)
	case "rule":
		return h.rule(op)
	case "address":
		return h.address(op)
	case "link":
		return h.link(op)
	case "neighbour", "proxy":
		return h.neighbour(op)
	case "sysctl":
		return h.sysctl(op)
	case "anycast":
		return h.joinAnycast(op)
	}
	return fmt.Errorf("kind %q is none of route, rule, address, link, neighbour, proxy, sysctl, anycast", op.Kind)
}

// explain adds the remedy to a cause.
func explain(op core.HostOp, err error) error {
	e := &HostError{Op: op, Err: err}
	var own *hinted
	var none netlink.LinkNotFoundError
	switch {
	case errors.As(err, &own):
		e.Hint = own.hint
	case errors.Is(err, unix.EPERM) || errors.Is(err, os.ErrPermission) && op.Kind != "address":
		e.Hint = "run with CAP_NET_ADMIN (as root, or AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW in the unit)"
	case errors.As(err, &none) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO):
		e.Hint = "there is no such interface: create it or correct its name in the config"
	case errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH):
		e.Hint = "the gateway must be on a network of this host: add its route or address first"
	case errors.Is(err, unix.ENETDOWN):
		e.Hint = "set the link up first"
	case errors.Is(err, unix.EACCES) && op.Kind == "address":
		e.Hint = "IPv6 is switched off on this link: set net.ipv6.conf.<link>.disable_ipv6=0"
	case errors.Is(err, os.ErrNotExist) && op.Kind == "sysctl":
		e.Hint = "this kernel, or a link that is gone, has no such setting: check the name"
	case errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP):
		e.Hint = "the kernel lacks this: IPv6 (ipv6.disable=0) and policy routing (CONFIG_IP_MULTIPLE_TABLES) are needed"
	}
	return e
}

// index finds the link of an operation; Name wins over If, because an index changes when a link is made anew.
func (h *Host) index(op core.HostOp) (int, error) {
	if op.Name == "" {
		if op.If == 0 {
			return 0, &hinted{errors.New("no interface given"), "name it in the config"}
		}
		return op.If, nil
	}
	l, err := h.nl.LinkByName(op.Name)
	if err != nil {
		return 0, err
	}
	return l.Attrs().Index, nil
}

// vanished reports that the link of a removal is gone, and with it all that was on it.
func vanished(op core.HostOp, err error) bool {
	var none netlink.LinkNotFoundError
	return op.Del && (errors.As(err, &none) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO))
}

// foreign is the refusal to replace what somebody else has set.
func foreign(what string, proto int) error {
	return &hinted{
		fmt.Errorf("%s is already there, set by protocol %d: %w", what, proto, os.ErrExist),
		"remove it, or give Kedge another table, prefix or link",
	}
}

func single(p netip.Prefix) error {
	if !p.IsValid() || !p.IsSingleIP() {
		return fmt.Errorf("%s is not a single address", p)
	}
	return nil
}

// hardware is a MAC for the netlink package, nil if unset.
func hardware(m core.MAC) []byte {
	if m == (core.MAC{}) {
		return nil
	}
	return m[:]
}

func (h *Host) link(op core.HostOp) error {
	if op.Del {
		return &hinted{errors.New("links are not removed by Kedge"), "set Value to down instead"}
	}
	ifi, err := h.index(op)
	if err != nil {
		return err
	}
	l, err := h.nl.LinkByIndex(ifi)
	if err != nil {
		return err
	}
	a := l.Attrs()
	op.Name = a.Name
	old := core.HostOp{Kind: "link", Name: a.Name}
	if op.MAC != (core.MAC{}) && string(a.HardwareAddr) != string(op.MAC[:]) {
		if len(a.HardwareAddr) != len(old.MAC) {
			return &hinted{fmt.Errorf("link type %s has no MAC address", l.Type()), "use an Ethernet link"}
		}
		copy(old.MAC[:], a.HardwareAddr)
	}
	if op.MTU != 0 && a.MTU != op.MTU {
		old.MTU = a.MTU
	}
	switch up := a.RawFlags&unix.IFF_UP != 0; {
	case op.Value != "" && op.Value != "up" && op.Value != "down":
		return fmt.Errorf("value %q is neither up nor down", op.Value)
	case op.Value == "up" && !up:
		old.Value = "down"
	case op.Value == "down" && up:
		old.Value = "up"
	}
	if err := h.journal.note(old); err != nil {
		return err
	}
	h.mark(op, ifi)
	if old.Value == "up" { // down before, up after the other changes: some drivers change a MAC only while down
		if err := h.nl.LinkSetDown(l); err != nil {
			return err
		}
	}
	if old.MAC != (core.MAC{}) {
		if err := h.nl.LinkSetHardwareAddr(l, op.MAC[:]); err != nil {
			return err
		}
	}
	if old.MTU != 0 {
		if err := h.nl.LinkSetMTU(l, op.MTU); err != nil {
			return err
		}
	}
	if old.Value == "down" {
		return h.nl.LinkSetUp(l)
	}
	return nil
}

// mark remembers that this run wants an object, so that Sweep leaves it, or that it does not.
func (h *Host) mark(op core.HostOp, ifi int) {
	o := keyOf(op, ifi)
	if op.Del {
		h.forget(o)
		return
	}
	h.applied[o] = true
	if keeps[op.Kind] {
		h.kept[o] = op
	}
}

// forget takes an object for removed.
func (h *Host) forget(o object) {
	delete(h.applied, o)
	delete(h.kept, o)
}

// keyOf names the object of an operation. Sysctls and links go by name, because their journal does.
func keyOf(op core.HostOp, ifi int) object {
	o := object{kind: op.Kind, ifi: ifi, prefix: op.Prefix, table: op.Table}
	switch op.Kind {
	case "route":
		o.ifi, o.prefix, o.metric = 0, op.Prefix.Masked(), metric(op.Metric, family(op.Prefix.Addr()))
		if o.table == 0 {
			o.table = unix.RT_TABLE_MAIN
		}
	case "rule":
		o.ifi, o.prefix, o.name = 0, op.Prefix.Masked(), op.Name+" "+op.Value
	case "sysctl":
		o = object{kind: op.Kind, name: sysctlKey(op.Name)}
	case "link":
		o = object{kind: op.Kind, name: op.Name}
	}
	return o
}
