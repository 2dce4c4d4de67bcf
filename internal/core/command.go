package core

import (
	"net/netip"
	"time"
)

// Commands: bodies of Command, put by the API and answered by Reply with the type named in each comment.
type (
	// GetStatus asks what the machine is and how it does: Status.
	GetStatus struct{}
	// GetBindings lists bindings whose id, address or prefix contains Filter; "" lists all: []Binding.
	GetBindings struct{ Filter string }
	// Explain asks why a binding is as it is and why the last requests were refused: Explanation.
	Explain struct{ ID string }
	// Attach tells a gateway that a host is on an access link, optionally with its identity and the gateway it came
	// from (handoff indicator 3): nil.
	Attach struct {
		If       string `json:"interface"`
		MAC      MAC    `json:"mac"`
		ID       string `json:"id,omitempty"`
		Previous string `json:"previous,omitempty"` // address of the old gateway: the context that handoff indicator 3 needs
	}
	// Detach tells a gateway that a host left: nil.
	Detach struct {
		If  string `json:"interface"`
		MAC MAC    `json:"mac"`
	}
	// Revoke tells an anchor to end the sessions of an identifier, or the one that has an address or prefix: Revoked.
	Revoke struct {
		ID string `json:"id"`
	}
	// Switch tells an anchor to send mobile nodes to other home agents (RFC 5142): the one of ID, or all with "", which are then
	// found and served here no more. To are the addresses to go to; none: the home agents of the home link. Within is the time
	// until their bindings end, 0 = they end with their lifetime. Rate is how many are told in a second, 1 by default. Stop ends
	// it, Show only tells how far it is: Switched.
	Switch struct {
		ID     string        `json:"id,omitempty"`
		To     []netip.Addr  `json:"to,omitempty"`
		Within time.Duration `json:"within_ns,omitempty"`
		Rate   int           `json:"rate,omitempty"`
		Stop   bool          `json:"stop,omitempty"`
		Show   bool          `json:"show,omitempty"`
	}
	// Stop tells a mobile node to end its registration and to take back all that it has set on the host: nil, when that
	// is done. The machine does nothing from then on.
	Stop struct{}
	// Roam tells a mobile node which link to prefer from now on, "" = as configured. It tries again at once, whatever it
	// waited for, a lasting refusal included: nil.
	Roam struct {
		Link string `json:"link,omitempty"`
	}
)

// Revoked answers Revoke.
type Revoked struct {
	Sessions int `json:"sessions"` // that were ended
	Told     int `json:"told"`     // of them, those whose gateways are being told
}

// Switched answers Switch.
type Switched struct {
	On          bool         `json:"on"`
	All         bool         `json:"all"`         // new nodes are refused too
	Nodes       int          `json:"nodes"`       // that are to leave and have not
	Told        int          `json:"told"`        // of them, those that were told
	Deaf        int          `json:"deaf"`        // of them, those that do not know the message
	Gone        int          `json:"gone"`        // that have left since
	Unprotected int          `json:"unprotected"` // that cannot be told, because nothing protects the message
	To          []netip.Addr `json:"to,omitempty"`
}

// Binding is one mobility session as users see it: a binding cache entry on an anchor, a binding update list entry on a
// gateway or a mobile node. One of a mobile node (RFC 6275) is for one home address, and has no ProxyCoA but Home and CareOf.
type Binding struct {
	ID        string         `json:"id"` // MN-Identifier
	Session   ID             `json:"session"`
	State     string         `json:"state"`
	Families  []string       `json:"families"`
	Prefixes  []netip.Prefix `json:"prefixes,omitempty"` // home network prefixes
	IPv4      netip.Prefix   `json:"ipv4,omitzero"`      // IPv4 home address with the length of its home network
	Router4   netip.Addr     `json:"ipv4_router,omitzero"`
	ProxyCoA  netip.Addr     `json:"proxy_coa,omitzero"`
	Gateway   string         `json:"gateway,omitempty"`
	Anchor    netip.Addr     `json:"anchor,omitzero"`
	Dialect   string         `json:"dialect"`
	ATT       uint8          `json:"att"`
	LinkLayer string         `json:"link_layer_id,omitempty"`
	Interface string         `json:"interface,omitempty"`
	Lifetime  time.Duration  `json:"lifetime_ns"`
	Expires   time.Time      `json:"expires"`
	Since     time.Time      `json:"since"`
	Sequence  uint16         `json:"sequence"`

	// For both kinds of registration.
	Protection string         `json:"protection,omitempty"`   // of its signalling: esp, rfc4285, none
	Kind       string         `json:"kind,omitempty"`         // host: the node registered by itself; proxy: its gateway did
	Home       []netip.Prefix `json:"home,omitempty"`         // all home addresses and prefixes that are bound, one entry each
	CareOf     netip.Addr     `json:"care_of,omitzero"`       // where they are tunnelled to; behind a NAT, what is seen of it
	Port       uint16         `json:"care_of_port,omitempty"` // of UDP framing, as observed
	Framing    string         `json:"framing,omitempty"`      // ip: protocols 4 and 41; udp: RFC 5555
	NAT        bool           `json:"nat,omitempty"`          // one was detected
}

// Explanation answers Explain: the bindings of the id and the newest history of decisions about it, oldest first.
type Explanation struct {
	ID       string    `json:"id"`
	Profile  string    `json:"profile"` // where its authorization comes from
	Bindings []Binding `json:"bindings"`
	History  []Past    `json:"history"`
}

// Past is one decision.
type Past struct {
	When   time.Time `json:"when"`
	What   string    `json:"what"`             // "PBU seq 7 from 2001:db8:a::11", "refused 154"
	Reason string    `json:"reason,omitempty"` // text of a wire.Reason
	Detail string    `json:"detail,omitempty"`
}

// Status answers GetStatus.
type Status struct {
	Role     string            `json:"role"`
	Since    time.Time         `json:"since"`
	Sessions map[string]int    `json:"sessions"` // by state
	Peers    []PeerStatus      `json:"peers,omitempty"`
	Pools    []PoolStatus      `json:"pools,omitempty"`
	Notes    []string          `json:"notes,omitempty"` // warnings: unprotected peers, store lost, ...
	Counters map[string]uint64 `json:"counters,omitempty"`

	HomeAgents []HomeAgentStatus `json:"home_agents,omitempty"` // others on the home link of an anchor, the best first
	Switching  *Switched         `json:"switching,omitempty"`   // an anchor sends its nodes away
}

// HomeAgentStatus is an entry of a home agents list (RFC 6275 10.1).
type HomeAgentStatus struct {
	LinkLocal     netip.Addr    `json:"link_local"`
	Addresses     []netip.Addr  `json:"addresses"`
	Preference    uint16        `json:"preference"`
	MobileRouters bool          `json:"mobile_routers,omitempty"`
	Left          time.Duration `json:"left_ns"`
}

// PeerStatus is the liveness of one gateway or anchor.
type PeerStatus struct {
	Name       string     `json:"name"`
	Address    netip.Addr `json:"address"`
	Alive      bool       `json:"alive"`
	Restarts   uint32     `json:"restart_counter"`
	LastHeard  time.Time  `json:"last_heard,omitzero"`
	Sessions   int        `json:"sessions"`
	Protection string     `json:"protection"`
}

// PoolStatus is the fill of one pool.
type PoolStatus struct {
	Name  string       `json:"name"`
	Range netip.Prefix `json:"range"`
	Used  uint64       `json:"used"`
	Free  uint64       `json:"free"`
}
