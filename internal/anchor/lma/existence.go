package lma

import (
	"bytes"
	"net/netip"
	"slices"

	"kedge/wire"
	"kedge/wire/mobility"
)

// Session is what the existence test knows of a binding cache entry. Slices may alias the cache.
type Session struct {
	Ref        uint32 // the caller's name of it
	Foreign    bool   // another mobile node's
	Prefixes   []netip.Prefix
	CareOf     netip.Addr
	ATT        uint8
	LinkLayer  []byte // nil = ALL_ZERO
	Deprecated bool   // deregistered, not deleted yet
}

// Verdict is what a request is.
type Verdict uint8

const (
	Create Verdict = iota + 1 // a new mobility session
	Update                    // of the session Ref
	Await                     // wait for the deregistration of Ref, then update it; else create
	Reject                    // with Refusal
	Ignore                    // a deregistration of nothing
)

// Decision is the result of the existence test. Rule names the paragraph that decided.
type Decision struct {
	Verdict Verdict
	Ref     uint32
	Rule    string
	Refusal *Refusal
}

// Exists is the binding cache entry existence test, RFC 5213 5.4.1, with an IPv4 home address as key as in RFC 5844
// 3.1.2.7. byKey is the session that has one of the request's NON_ZERO prefixes or, when there is none, its IPv4 address;
// nil when none has. node are all sessions of the mobile node. wait allows Await.
func Exists(r *Request, byKey *Session, node []Session, wait bool) Decision {
	_, v4 := r.V4Key()
	switch {
	case r.NonZero > 0:
		return byHome(r, byKey, true)
	case v4:
		return byHome(r, byKey, false)
	case r.Interface() != nil:
		return byInterface(r, node, wait)
	}
	return byNode(r, node, wait)
}

// byHome is 5.4.1.1. The numbers are its paragraphs.
func byHome(r *Request, s *Session, v6 bool) Decision {
	const rule = "RFC 5213 5.4.1.1 "
	if s == nil {
		return anew(r, rule+"(2)")
	}
	if s.Foreign {
		f := refuse(mobility.NotAuthorizedForHNP, wire.PrefixNotAuthorized, "the prefix is another mobile node's")
		if !v6 {
			f = RefuseV4(r, V4Foreign, "the address is another mobile node's")
		}
		return Decision{Verdict: Reject, Rule: rule + "(3)", Refusal: f}
	}
	if v6 && !r.matches(s.Prefixes) {
		return Decision{Verdict: Reject, Ref: s.Ref, Rule: rule + "(4)", Refusal: refuse(mobility.BCEPrefixSetMismatch, wire.PrefixMismatch,
			"the session has %v", s.Prefixes)}
	}
	ll, hi := r.Interface(), r.Asked()
	switch {
	case ll != nil && bytes.Equal(ll, s.LinkLayer) && r.ATT == s.ATT,
		hi == mobility.HandoffInterfaces,
		ll == nil && s.LinkLayer == nil && r.ATT == s.ATT && hi == mobility.HandoffGateways,
		r.CareOf == s.CareOf && r.ATT == s.ATT:
		return Decision{Verdict: Update, Ref: s.Ref, Rule: rule + "(5)"}
	}
	return anew(r, rule+"(6)")
}

// byInterface is 5.4.1.2.
func byInterface(r *Request, node []Session, wait bool) Decision {
	const rule = "RFC 5213 5.4.1.2 "
	for i := range node {
		if s := &node[i]; s.ATT == r.ATT && bytes.Equal(s.LinkLayer, r.Interface()) {
			return Decision{Verdict: Update, Ref: s.Ref, Rule: rule + "(2)"}
		}
	}
	if len(node) == 1 {
		switch r.Asked() {
		case mobility.HandoffInterfaces:
			return Decision{Verdict: Update, Ref: node[0].Ref, Rule: rule + "(3)"}
		case mobility.HandoffUnknown:
			return unknown(r, &node[0], wait, rule+"(4)")
		}
	}
	return anew(r, rule+"(5)")
}

// byNode is 5.4.1.3.
func byNode(r *Request, node []Session, wait bool) Decision {
	const rule = "RFC 5213 5.4.1.3 "
	if len(node) == 1 {
		switch r.Asked() {
		case mobility.HandoffInterfaces, mobility.HandoffGateways:
			return Decision{Verdict: Update, Ref: node[0].Ref, Rule: rule + "(2)"}
		case mobility.HandoffUnknown:
			return unknown(r, &node[0], wait, rule+"(3)")
		}
	}
	return anew(r, rule+"(4)")
}

// unknown decides for a handoff of unknown kind when the mobile node has exactly one session: once the former gateway has
// deregistered, it is that one. A deregistration waits for none: it is of this session when no identifier tells them
// apart, and else of another interface, whose request may still wait or was refused.
func unknown(r *Request, s *Session, wait bool, rule string) Decision {
	same := r.Lifetime == 0 && r.Interface() == nil && s.LinkLayer == nil && r.ATT == s.ATT
	switch {
	case same, s.Deprecated:
		return Decision{Verdict: Update, Ref: s.Ref, Rule: rule}
	case !wait, r.Lifetime == 0:
		return anew(r, rule)
	}
	return Decision{Verdict: Await, Ref: s.Ref, Rule: rule}
}

// anew is a new session, or nothing when it would be deregistered.
func anew(r *Request, rule string) Decision {
	if r.Lifetime == 0 {
		return Decision{Verdict: Ignore, Rule: rule, Refusal: &Refusal{Reason: wire.NothingToDeregister, Silent: true, Detail: "no session matches"}}
	}
	return Decision{Verdict: Create, Rule: rule}
}

// matches says whether the request names the prefixes of a session. An ALL_ZERO option beside others stands for all that
// it does not name: so a request that made a session finds it again.
func (r *Request) matches(session []netip.Prefix) bool {
	named := r.Prefixes[:r.NonZero]
	switch {
	case r.TooMany:
		return false
	case !r.AllZero:
		return sameSet(named, session)
	}
	for i, p := range named {
		if !slices.Contains(session, p) || slices.Contains(named[:i], p) {
			return false
		}
	}
	return true
}

// sameSet compares as sets of equal size: the order of options says nothing.
func sameSet(a, b []netip.Prefix) bool {
	if len(a) != len(b) {
		return false
	}
	for i, p := range a {
		if !slices.Contains(b, p) || slices.Contains(a[:i], p) {
			return false
		}
	}
	return true
}
