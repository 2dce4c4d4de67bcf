// Package core holds the words that machines, loops, back ends and the simulator share: events, effects, paths, chains,
// and the contracts of Host, Port, Dataplane and Store. It imports no other Kedge package.
//
// A protocol role is a Machine: single-threaded, without I/O, lock, goroutine or clock. The loop that runs it turns
// sockets and timers into events, and effects into I/O. Rules that the types cannot say:
//
//  1. Effects of one Handle apply in order. A Send waits for every Persist and Forward before it; a failed one drops the
//     Sends behind it and comes back as Done with the error. The loop commits in groups (at most 5 ms) and never blocks.
//  2. The loop drains up to 256 events, then does one Store.Commit, one Dataplane.Update and one batched write.
//  3. Sub-machines (dhcp4, ra) are called directly by their parent in the same goroutine; only parents see Event and Effect.
//  4. The data plane hands packets for the daemon's own addresses to the signalling Port with Outer filled.
package core

import (
	"fmt"
	"net/netip"
	"time"
)

// Now is both clocks: Boot (CLOCK_BOOTTIME: runs in suspend, never steps) for every timer and Deadline; Wall for the
// Timestamp option, leases and the store. A machine never calls time.Now; randomness is an io.Reader given to its constructor.
type Now struct {
	Boot time.Duration
	Wall time.Time
}

// Machine is single-threaded and without I/O. Handle appends to out and keeps no reference to ev's buffers or to out.
type Machine interface {
	Handle(now Now, ev Event, out []Effect) []Effect
	// Deadline is the earliest wish for a Tick, in boot time; read after every Handle.
	Deadline() (boot time.Duration, ok bool)
}

type (
	Ref    uint64 // ties Done, Answer and Reply to what asked; 0 = result not wanted
	Shard  int    // index of a machine among those of one process; -1 = all
	ID     uint64 // session id: forwarding, counters, reports, trace; never reused
	Domain uint32 // routing domain; 0 by default. Keeps equal private addresses and link-locals apart
	MAC    [6]byte
)

// String is the lower-case form with colons.
func (m MAC) String() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// MarshalText makes a MAC readable in JSON.
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText accepts six hexadecimal octets joined by colons or hyphens.
func (m *MAC) UnmarshalText(b []byte) error {
	v, err := ParseMAC(string(b))
	if err == nil {
		*m = v
	}
	return err
}

// ParseMAC accepts six hexadecimal octets joined by colons or hyphens.
func ParseMAC(s string) (MAC, error) {
	var m MAC
	if len(s) != 17 {
		return m, fmt.Errorf("%q is no MAC address: want six octets as in 02:00:00:00:00:0a", s)
	}
	for i := range m {
		hi, ok1 := hexDigit(s[3*i])
		lo, ok2 := hexDigit(s[3*i+1])
		if !ok1 || !ok2 || i < 5 && s[3*i+2] != ':' && s[3*i+2] != '-' {
			return MAC{}, fmt.Errorf("%q is no MAC address: want six octets as in 02:00:00:00:00:0a", s)
		}
		m[i] = hi<<4 | lo
	}
	return m, nil
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// Events: what a machine is told.
type (
	Event interface{ event() }
	Tick  struct{}
	// Message is one signalling or access-link message. Err is a decode error with its wire code; Raw and whatever Body
	// aliases are valid during Handle only.
	Message struct {
		Path Path
		Body any
		Err  error
		Raw  []byte
	}
	// Seen: a host showed itself, by: rs ns na arp dhcp mld data fdb link api nud.
	Seen struct {
		If   int
		MAC  MAC
		Addr netip.Addr
		By   string
		Gone bool
	}
	// HostChanged: link, address, route, neighbour. Synced ends the first dump.
	HostChanged struct {
		Op                          HostOp
		Gone, Up, Tentative, Synced bool
	}
	// Reported comes from the data plane, rate-limited. Reason is the text of a wire.Reason: unknown-home, wrong-source... or
	// ReportCorrespondent or ReportUnreachable. HomeAddress: a Home Address option said what Inner.Src is, and Outer has the addresses on the wire, care-of
	// addresses (RFC 6275 9.3.1).
	Reported struct {
		ID          ID
		Reason      string
		Outer       Layer
		Inner       Match
		HomeAddress bool
	}
	Done struct { // an effect with Ref was carried out or failed
		Ref Ref
		Err error
	}
	Answer struct { // to Ask
		Ref  Ref
		Body any
		Err  error
	}
	Command struct { // API or CLI; answered by Reply
		Ref  Ref
		Body any
	}
	Told struct { // from another machine of the process: gateway restarted, revoke all of it
		From Shard
		Body any
	}
	// Restored comes from the store, before any other event. Last carries no record.
	Restored struct {
		Key, Val []byte
		Last     bool
	}
)

func (Tick) event()        {}
func (Message) event()     {}
func (Seen) event()        {}
func (HostChanged) event() {}
func (Reported) event()    {}
func (Done) event()        {}
func (Answer) event()      {}
func (Command) event()     {}
func (Told) event()        {}
func (Restored) event()    {}

// Effects: what a machine wants. Those of one Handle are applied in order.
type (
	Effect interface{ effect() }
	// Send leaves only after every Persist and Forward before it is done. Body is a mobility.Message, an *ip.Echo or an
	// nd.Message of RFC 6275 6.5 to 6.8, or an Appender for access frames.
	Send struct {
		Path Path
		Body any
		Ref  Ref
	}
	Forward struct {
		Ops []Op
		Ref Ref
	}
	Change struct {
		Ops []HostOp
		Ref Ref
	}
	// Persist writes one record; Val nil deletes. Lazy records (a refresh: lifetime, ordering state) may be written
	// behind, and no Send waits for them. Prompt ones of them are written as soon as their round is carried out.
	Persist struct {
		Key, Val     []byte
		Lazy, Prompt bool
	}
	// Endpoint moves the tunnel-mode security associations of a peer for a home address, the peer's or ours, to the ends of its tunnel
	// as an accepted binding has them (RFC 4877 4.3); without Remote it ends, as at home. It is for bindings that IPsec protected, and
	// comes before the Sends behind it. Ends in IPv4 carry none of it: what the associations protect is then refused.
	Endpoint struct {
		Peer                string
		Home, Local, Remote netip.Addr
	}
	Ask struct {
		Ref  Ref
		Body any
	}
	Tell struct {
		To   Shard
		Body any
	}
	Reply struct {
		Ref  Ref
		Body any
		Err  error
	}
	// Emit: log, metrics, trace and API see this and nothing else.
	Emit struct {
		Name          string
		ID            ID
		From, To, Why string
		Fields        any
	}
)

func (Send) effect()     {}
func (Forward) effect()  {}
func (Change) effect()   {}
func (Persist) effect()  {}
func (Endpoint) effect() {}
func (Ask) effect()      {}
func (Tell) effect()     {}
func (Reply) effect()    {}
func (Emit) effect()     {}

// CountSessions is the Body of an Ask for the counters of sessions; the Answer has []Counter, in the order of the ids. A session
// that is not known counts nothing.
type CountSessions []ID

// Appender is a message body that writes itself: access frames are.
type Appender interface {
	Append(b []byte) ([]byte, error)
}

// Path is where a signalling message came from or goes to. An answer reuses the request's Path reversed: it takes the same tunnel.
type Path struct {
	If            int
	Local, Remote netip.AddrPort // innermost IP header; port 0 = not UDP (protocol 135)
	Home          netip.Addr     // the other's home address: its Home Address option in, type 2 routing header out
	Own           netip.Addr     // our home address, on a node: type 2 routing header in, Home Address option out
	Outer         Chain          // headers around it: NAT-observed source, protocol 41, arrival in a session's tunnel
	Auth          Auth           // who vouches for it; on Send: what must protect it
}

// Auth says who vouches for a message. Kind: esp, mipv4, rfc4285, none. Peer is the name in the config's security section.
type Auth struct {
	Kind string
	SPI  uint32
	Peer string
}
