package ebpf

import (
	"encoding/binary"
	"strings"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"kedge/internal/dataplane"
)

// askAgain is how long an answer of Config.Netfilter holds where nothing says that it changed: rules of the older iptables.
const askAgain = 30 * time.Second

// stack is what is known of rules that packets should not pass by.
type stack struct {
	at  time.Time
	gen uint32
	why atomic.Pointer[string]
}

// ask decides whether what an anchor forwards goes through the kernel. The calling thread is in the plane's namespace.
func (p *Plane) ask() {
	if p.cfg.Role != dataplane.Anchor {
		return
	}
	on, why := p.cfg.ThroughStack, ""
	switch {
	case on:
		why = "it is configured"
	case p.cfg.Netfilter != nil:
		gen := rulesGeneration()
		if !p.stack.at.IsZero() && gen == p.stack.gen && time.Since(p.stack.at) < askAgain {
			return
		}
		p.stack.at, p.stack.gen = time.Now(), gen
		rules, err := p.cfg.Netfilter()
		switch {
		case err != nil:
			on, why = true, "there may be rules of netfilter: "+err.Error()
		case len(rules) > 0:
			on, why = true, "rules of netfilter for what this host forwards: "+strings.Join(rules, ", ")
		default:
			why = "no rules of netfilter for what this host forwards"
		}
	}
	v := uint32(0)
	if on {
		v = 1
	}
	p.stack.why.Store(&why)
	atomic.StoreUint32(&p.k.control.through, v)
}

// rulesGeneration is another number after each change of nftables; 0 = there is none.
func rulesGeneration() uint32 {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN, 0)
	req.AddData(&nl.Nfgenmsg{})
	msgs, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	if err != nil || len(msgs) == 0 || len(msgs[0]) < nl.SizeofNfgenmsg {
		return 0
	}
	attrs, err := nl.ParseRouteAttr(msgs[0][nl.SizeofNfgenmsg:])
	if err != nil {
		return 0
	}
	for _, a := range attrs {
		if a.Attr.Type&nl.NLA_TYPE_MASK == unix.NFTA_GEN_ID && len(a.Value) >= 4 {
			return binary.BigEndian.Uint32(a.Value)
		}
	}
	return 0
}
