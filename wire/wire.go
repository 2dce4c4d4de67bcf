// Package wire holds what all wire formats share: the error of a parser and the closed list of reasons for drops and
// refusals. Its sub-packages turn bytes into values and back, and do nothing else: no I/O, no state.
package wire

import (
	"errors"
	"fmt"
	"strings"
)

// Error is what a parser says about bytes it refuses. It carries the wire code that the answer needs, so that the decode
// error is the reply.
type Error struct {
	Msg    string // message, as the RFC names it: "Binding Update"
	Field  string // field or option: "Home Network Prefix option"
	Off    int    // octet offset of the field in the message
	RFC    string // "RFC 5213 8.3"
	Reason Reason
	Status uint8 // status or code of the answer, 0 = none
	// ParameterProblem: the answer is an ICMPv6 Parameter Problem, code 0, whose pointer shows Off (RFC 6275 9.2).
	ParameterProblem bool
	Err              error // cause, may be nil
}

// Error reads "Binding Update: Home Network Prefix option at octet 12: bad-option-length (RFC 5213 8.3)".
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Msg)
	if e.Field != "" {
		fmt.Fprintf(&b, ": %s at octet %d", e.Field, e.Off)
	}
	fmt.Fprintf(&b, ": %s", e.Reason)
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	if e.RFC != "" {
		fmt.Fprintf(&b, " (%s)", e.RFC)
	}
	return b.String()
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is makes errors.Is(err, ReasonX) work.
func (e *Error) Is(target error) bool {
	r, ok := target.(Reason)
	return ok && r == e.Reason
}

// ReasonOf is the reason within an error: of the first Error in its chain, else the Reason itself, else Malformed. It allocates
// nothing, because strangers decide how often it is asked.
func ReasonOf(err error) Reason {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Reason
	}
	if r, ok := errors.AsType[Reason](err); ok {
		return r
	}
	return Malformed
}
