// Package api is the control interface of a daemon: HTTP and JSON on a unix socket, events as server-sent events, and the
// client for it. Whoever may open the socket (mode 0660) may use all of it. A TCP listener, if the config asks for one,
// serves metrics and health only.
//
//	GET  /v1/status              Status
//	GET  /v1/bindings?filter=&limit=   Bindings
//	GET  /v1/explain/{id}        []Explanation
//	GET  /v1/events?backlog=&messages=&follow=   one observe.Line each; event: lost tells a slow reader how many it missed
//	POST /v1/attach              core.Attach, on gateways
//	POST /v1/detach              core.Detach, on gateways
//	POST /v1/revoke              core.Revoke, on anchors: core.Revoked
//	POST /v1/switch              core.Switch, on home agents: core.Switched
//	POST /v1/roam                core.Roam, on mobile nodes
//	POST /v1/stop                ends the daemon; a mobile node deregisters and takes back what it has set first
//	GET  /metrics                Prometheus text
//	GET  /healthz                200 if every machine answers
//
// An error is {"error": ..., "reason": ..., "want": ...} with a 4xx or 5xx status. Times are RFC 3339.
package api

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"kedge/internal/core"
)

// Commander asks a machine; loop.Loop is one. Bodies and replies are the types of internal/core/command.go.
type Commander interface {
	Command(ctx context.Context, body any) (any, error)
}

// Limits of the server.
const (
	maxBody         = 64 << 10         // octets of a request
	maxHeader       = 16 << 10         // octets of a request's header
	commandTimeout  = 5 * time.Second  // for a machine's answer
	headerTimeout   = 5 * time.Second  // for a request's header
	readTimeout     = 10 * time.Second // for a request
	writeTimeout    = 30 * time.Second // for an answer, or one event
	idleTimeout     = 60 * time.Second
	keepAlive       = 15 * time.Second // between two signs of life on an idle event stream
	maxMetricsConns = 32               // of the TCP listener
	maxConns        = 512              // of the unix socket: clients that hang must not eat the daemon's files
	defaultLimit    = 10_000           // bindings in one answer
	maxBacklog      = 1_000_000
)

// Status answers /v1/status.
type Status struct {
	Self      string        `json:"self"`
	Version   string        `json:"version"`
	Config    string        `json:"config,omitempty"`
	Started   time.Time     `json:"started"`
	Roles     []core.Status `json:"roles"`
	Dataplane []Dataplane   `json:"dataplane,omitempty"`
	Security  []Association `json:"security,omitempty"`
	Warnings  []Warning     `json:"warnings,omitempty"`
}

// Dataplane is how a role forwards. What is below Why is of kind ebpf only.
type Dataplane struct {
	Role         string   `json:"role"`
	Kind         string   `json:"kind"`  // ebpf, user
	Asked        string   `json:"asked"` // dataplane.kind: auto, ebpf, user
	Why          string   `json:"why"`   // it is this kind
	Attach       string   `json:"attach,omitempty"`
	Links        []string `json:"links,omitempty"`         // that have programs: "eth0 core"
	Sessions     int      `json:"sessions,omitempty"`      // that the tables hold
	Partial      bool     `json:"partial,omitempty"`       // there are more sessions, and the process forwards those
	Adopted      bool     `json:"adopted,omitempty"`       // the tables are a former process's
	ThroughStack bool     `json:"through_stack,omitempty"` // what an anchor forwards passes netfilter
	StackWhy     string   `json:"through_stack_why,omitempty"`
	Pins         string   `json:"pins,omitempty"`     // where it all outlives the process
	PinsWhy      string   `json:"pins_why,omitempty"` // why it does not
	Failing      string   `json:"failing,omitempty"`  // what could not be attached
	Offloads     []string `json:"offloads,omitempty"` // that this process uses for the packets that it forwards
	Notes        []string `json:"notes,omitempty"`    // what somebody should know
}

// Association is one security association with a peer, in one direction; or, without direction, that signalling with a peer is
// protected in another way (rfc4285) or not at all (none), as Suite says. There is nothing of keys in it.
type Association struct {
	Peer      string   `json:"peer"`
	Protects  string   `json:"protects"`            // what it is for: signalling, ...
	Direction string   `json:"direction,omitempty"` // in, out
	SPI       uint32   `json:"spi,omitempty"`
	Suite     string   `json:"suite"`
	Sequence  uint64   `json:"sequence"` // the highest number that was sent or received
	Packets   uint64   `json:"packets"`
	Replayed  uint64   `json:"replayed,omitempty"`
	BadICV    uint64   `json:"bad_icv,omitempty"`
	Tunnels   []Tunnel `json:"tunnels,omitempty"` // of one in tunnel mode: where it goes at the moment
	Notes     []string `json:"notes,omitempty"`   // what somebody should do
}

// Tunnel is where what an association in tunnel mode protects goes for a home address.
type Tunnel struct {
	Home   netip.Addr `json:"home"`
	Local  netip.Addr `json:"local"`
	Remote netip.Addr `json:"remote"`
}

// Warning is one that the config gave at start.
type Warning struct {
	Where string `json:"where"` // file:line
	Key   string `json:"key"`
	Kind  string `json:"kind"`
	Text  string `json:"text"`
}

// Bindings answers /v1/bindings: the first of Total that match.
type Bindings struct {
	Bindings []Binding `json:"bindings"`
	Total    int       `json:"total"`
}

// Binding says which role of the daemon has it.
type Binding struct {
	Role string `json:"role"`
	core.Binding
	Traffic *Traffic `json:"traffic,omitempty"` // since the session is in the data plane
}

// Traffic is what a session has carried: In came from its tunnel, Out went into it. Octets are those of inner packets.
type Traffic struct {
	PacketsIn  uint64 `json:"packets_in"`
	OctetsIn   uint64 `json:"octets_in"`
	PacketsOut uint64 `json:"packets_out"`
	OctetsOut  uint64 `json:"octets_out"`
}

// Explanation is one role's answer to /v1/explain/{id}.
type Explanation struct {
	Role string `json:"role"`
	core.Explanation
	Traffic []*Traffic `json:"traffic,omitempty"` // of each binding, null where nobody counts
}

// Error is an answer that is none.
type Error struct {
	Status  int    `json:"-"`
	Message string `json:"error"`
	Reason  string `json:"reason,omitempty"` // text of a wire.Reason
	Want    string `json:"want,omitempty"`   // what to do
}

func (e *Error) Error() string {
	if e.Want != "" {
		return fmt.Sprintf("%s: %s", e.Message, e.Want)
	}
	return e.Message
}
