package system

import (
	"fmt"
	"net/netip"

	"github.com/google/nftables/expr"

	"kedge/internal/core"
	"kedge/internal/nftmatch"
	wireip "kedge/wire/ip"
	"kedge/wire/nd"
)

// What the tap takes is dropped in the input hook:
//
//	table ip6 kedge-107 {
//		set local { type ipv6_addr; elements = { ... } }     # only where Options.Local names addresses
//		chain taken {
//			type filter hook input priority raw;
//			ip6 daddr @local rt type 2 drop
//			ip6 daddr @local <first destination option is 0xc9> meta l4proto { 50, 135 } drop
//			ip6 daddr @local <first destination option is 0xc9> icmpv6 type 146 drop   # of who answers it
//		}
//	}
//
// The table's name carries the host's tag.

func tapName(tag uint8) string { return fmt.Sprintf("kedge-%d", tag) }

// rules are the table's for packets to local, or to every address of the host if there is none.
func (t *tap) rules(local []netip.Addr) func(*nftmatch.Rules) error {
	return func(r *nftmatch.Rules) (err error) {
		var to []expr.Any
		if len(local) > 0 {
			if to, err = r.Among("local", nftmatch.Destination, local); err != nil {
				return err
			}
		}
		r.Add(expr.VerdictDrop, nftmatch.Type2Routing(), to)
		for _, home := range nftmatch.HomeAddress() {
			for _, proto := range []byte{wireip.ESP, wireip.Mobility} {
				r.Add(expr.VerdictDrop, home, nftmatch.Upper(proto), to)
			}
			if t.solicited {
				r.Add(expr.VerdictDrop, home, nftmatch.ICMPv6(nd.TypeMobilePrefixSolicitation), to)
			}
		}
		return nil
	}
}

// sweepTap removes the table of an earlier run that no port of this Host replaced.
func (h *Host) sweepTap(remove func(core.HostOp, error)) {
	if h.taps.Load() > 0 {
		return
	}
	op := core.HostOp{Kind: "ip port", Del: true, Name: tapName(h.opt.Tag)}
	err := h.inside(func() error {
		found, err := nftmatch.Sweep(op.Name)
		if found {
			remove(op, nil)
		}
		return err
	})
	if err != nil {
		remove(op, err)
	}
}
