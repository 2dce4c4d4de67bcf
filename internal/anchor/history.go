package anchor

import (
	"fmt"
	"net/netip"
	"time"

	"kedge/internal/binding"
	"kedge/internal/core"
	"kedge/wire"
)

// historySize is how many decisions are remembered, of all subscribers together. Refreshes are none.
const historySize = 4096

// past is one decision, formatted when somebody asks.
type past struct {
	when     time.Time
	sub      string
	what     string // why of a transition, "" = refused
	from, to binding.State
	status   uint8
	silent   bool
	host     bool // a Binding Update of a node, not a proxy's
	reason   wire.Reason
	coa      netip.Addr
	seq      uint16
	lifetime uint16
	detail   string
	rule     string
}

type history struct {
	ring []past
	next int
}

func (h *history) add(p past) {
	if len(h.ring) < historySize {
		h.ring = append(h.ring, p)
		return
	}
	h.ring[h.next] = p
	h.next = (h.next + 1) % historySize
}

// of gives the decisions about a subscriber, oldest first.
func (h *history) of(sub string) []core.Past {
	var out []core.Past
	for k := range h.ring {
		p := &h.ring[(h.next+k)%len(h.ring)]
		if p.sub == sub {
			out = append(out, p.tell())
		}
	}
	return out
}

func (p *past) tell() core.Past {
	t := core.Past{When: p.when, Reason: string(p.reason), Detail: p.detail}
	message, sender := "PBU", "gateway"
	if p.host {
		message, sender = "BU", "care-of address"
	}
	request := fmt.Sprintf("%s seq %d", message, p.seq)
	if p.coa.IsValid() {
		request += " from " + p.coa.String()
	}
	switch {
	case p.host && p.what == "ipv4":
		t.What = fmt.Sprintf("%s: IPv4 home address refused %d", request, p.status)
	case p.what != "":
		t.What = fmt.Sprintf("%s: %s -> %s, %s %s, seq %d", p.what, p.from, p.to, sender, p.coa, p.seq)
	case p.silent:
		t.What = request + " ignored"
	default:
		t.What = fmt.Sprintf("%s refused %d", request, p.status)
	}
	if p.rule != "" {
		if t.Detail != "" {
			t.Detail += "; "
		}
		t.Detail += p.rule
	}
	return t
}
