package system

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"kedge/internal/core"
)

// ifaProto is IFA_PROTO (Linux 5.18); older kernels ignore it, so addresses are journalled as well.
const ifaProto = 11

// addressFlags are the words of an address operation's value and the kernel's flags for them.
var addressFlags = map[string]uint32{
	"nodad": unix.IFA_F_NODAD, "optimistic": unix.IFA_F_OPTIMISTIC, "noprefixroute": unix.IFA_F_NOPREFIXROUTE, "deprecated": unix.IFA_F_DEPRECATED,
}

func parseAddressFlags(value string) (flags uint32, err error) {
	for w := range strings.FieldsSeq(value) {
		f, ok := addressFlags[w]
		if !ok {
			return 0, fmt.Errorf("value %q: want nodad, optimistic, noprefixroute, deprecated", value)
		}
		flags |= f
	}
	if flags&unix.IFA_F_NODAD != 0 && flags&unix.IFA_F_OPTIMISTIC != 0 {
		return 0, fmt.Errorf("value %q: an address is usable at once by nodad or by optimistic, not both", value)
	}
	return flags, nil
}

func (h *Host) address(op core.HostOp) error {
	if !op.Prefix.IsValid() {
		return errors.New("no prefix given")
	}
	flags, err := parseAddressFlags(op.Value)
	if err != nil {
		return err
	}
	ifi, err := h.index(op)
	if vanished(op, err) {
		h.mark(op, 0)
		return nil
	}
	if err != nil {
		return err
	}
	there, err := h.addresses(ifi)
	if err != nil {
		return err
	}
	have := -1
	for i, a := range there {
		if a.prefix == op.Prefix {
			have = i
		}
	}
	// On kernels without the tag the journal knows what is ours.
	own := have >= 0 && (there[have].proto == h.opt.Tag || h.journal.has(h.addressUndo(op, ifi)))
	kind, mode := unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK
	switch {
	case op.Del && !own:
		h.mark(op, ifi)
		return nil
	case op.Del:
		kind, mode = unix.RTM_DELADDR, unix.NLM_F_ACK
	case have >= 0 && !own:
		return nil // somebody else's, and there
	case have >= 0:
		h.mark(op, ifi)
		// An address keeps how it began; whether it is preferred can change.
		if (there[have].flags^flags)&(unix.IFA_F_DEPRECATED|unix.IFA_F_NOPREFIXROUTE) == 0 {
			return nil
		}
		mode = unix.NLM_F_REPLACE | unix.NLM_F_ACK
		flags |= there[have].flags & unix.IFA_F_NODAD
	default:
		if err := h.journal.note(h.addressUndo(op, ifi)); err != nil {
			return err
		}
	}
	err = h.setAddress(op, ifi, kind, mode, flags)
	if op.Del && errors.Is(err, unix.EADDRNOTAVAIL) || !op.Del && errors.Is(err, unix.EEXIST) {
		err = nil
	}
	if err == nil {
		h.mark(op, ifi)
	}
	return err
}

func (h *Host) setAddress(op core.HostOp, ifi, kind, mode int, flags uint32) error {
	a := op.Prefix.Addr()
	msg := nl.NewIfAddrmsg(family(a))
	msg.Index, msg.Prefixlen = uint32(ifi), uint8(op.Prefix.Bits())
	if a.IsLoopback() {
		msg.Scope = unix.RT_SCOPE_HOST
	} else if a.IsLinkLocalUnicast() {
		msg.Scope = unix.RT_SCOPE_LINK
	}
	req := h.request(kind, mode)
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.IFA_LOCAL, a.AsSlice()))
	req.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, a.AsSlice()))
	// Deprecated is no flag that can be set: it is a preferred lifetime of nothing (RFC 4862 5.5.4).
	req.AddData(nl.NewRtAttr(unix.IFA_FLAGS, nl.Uint32Attr(flags&^unix.IFA_F_DEPRECATED)))
	req.AddData(nl.NewRtAttr(ifaProto, nl.Uint8Attr(h.opt.Tag)))
	life := nl.IfaCacheInfo{IfaCacheinfo: unix.IfaCacheinfo{Prefered: math.MaxUint32, Valid: math.MaxUint32}}
	if flags&unix.IFA_F_DEPRECATED != 0 {
		life.Prefered = 0
	}
	req.AddData(nl.NewRtAttr(unix.IFA_CACHEINFO, life.Serialize()))
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// addressUndo is the journal's entry for an address.
func (h *Host) addressUndo(op core.HostOp, ifi int) core.HostOp {
	u := core.HostOp{Kind: "address", Del: true, Name: op.Name, Prefix: op.Prefix}
	if u.Name == "" {
		if l, err := h.nl.LinkByIndex(ifi); err == nil {
			u.Name = l.Attrs().Name
		}
	}
	return u
}

type address struct {
	ifi    int
	prefix netip.Prefix
	flags  uint32
	proto  uint8
}

// addresses lists those of one link, or of all for 0.
func (h *Host) addresses(ifi int) ([]address, error) {
	req := h.request(unix.RTM_GETADDR, unix.NLM_F_DUMP)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	msgs, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWADDR)
	if err != nil && !errors.Is(err, nl.ErrDumpInterrupted) {
		return nil, err
	}
	var out []address
	for _, m := range msgs {
		if a, ok := parseAddress(m); ok && (ifi == 0 || a.ifi == ifi) {
			out = append(out, a)
		}
	}
	return out, nil
}

func parseAddress(b []byte) (address, bool) {
	if len(b) < unix.SizeofIfAddrmsg {
		return address{}, false
	}
	msg := nl.DeserializeIfAddrmsg(b)
	attrs, err := nl.ParseRouteAttr(b[unix.SizeofIfAddrmsg:])
	if err != nil {
		return address{}, false
	}
	out := address{ifi: int(msg.Index), flags: uint32(msg.Flags)}
	var local, peer netip.Addr
	for _, at := range attrs {
		switch at.Attr.Type {
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(at.Value)
		case unix.IFA_ADDRESS:
			peer, _ = netip.AddrFromSlice(at.Value)
		case unix.IFA_FLAGS:
			out.flags = native32(at.Value)
		case ifaProto:
			out.proto = native8(at.Value)
		}
	}
	if !local.IsValid() {
		local = peer // IPv6 without a peer has IFA_ADDRESS only
	}
	out.prefix = netip.PrefixFrom(local, int(msg.Prefixlen))
	return out, out.prefix.IsValid()
}
