// Package observe is how people see a daemon: log, metrics, the event stream, and the recent events that the API replays.
// All of them come from what machines emit and from the messages that the loop saw, and from nothing else.
//
// A Hub belongs to a process; an Observer, made by Role, to each of its loops: it implements loop.Observer. Emit and
// Message run in the loop's goroutine, so they count and put a record into a ring, and return: encoding, logging and
// writing happen in the goroutines of the ring's readers. A reader that is too slow loses records and is told how many.
//
// What the names of emitted events mean here:
//
//	session           a state change or handoff, From -> To because of Why: one Info line
//	peer              the same for a gateway or anchor
//	refused           a request was refused; Why is a wire.Reason: kedge_refusals_total
//	message-ignored   a message was dropped; Why is a wire.Reason, field layer: kedge_drops_total
//	dropped           the data plane told of a dropped packet; it counts them itself
//	retransmit        field type: kedge_retransmits_total
//	path              a mobile node's path to its home agent, To alive, dead or udp because of Why: kedge_path_changes_total
//	handover          fields phase and took_ms: kedge_handover_seconds
//	clock             fields peer and offset_ms: kedge_clock_offset_seconds
//
// Any other name is logged: at Info if From and To differ, else at Debug; what went wrong in the daemon (failed, warning) at
// Warn.
//
// Rule for Fields of core.Emit: nil, a map[string]any or a struct; it is read after Emit returned, so its maker must not
// change it any more.
package observe

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"kedge/internal/core"
)

// Options of a Hub.
type Options struct {
	Self   string       // name of the daemon
	Log    *slog.Logger // nil: nothing is logged
	Events io.Writer    // JSONL; nil: none. Written by one goroutine
	Keep   int          // recent records that are kept; at least 16
	Redact bool         // identifiers of hosts are shortened in log and events
}

// Hub collects what happens in one process. Its methods are safe for concurrent use.
type Hub struct {
	self   string
	redact bool
	salt   uint64
	ring   *ring
	count  *counters

	messages atomic.Int32 // readers that want messages; without any they are only counted

	sources struct {
		sync.Mutex
		list []Source
	}
	wg sync.WaitGroup
}

// New starts a hub; Close ends it.
func New(o Options) *Hub {
	h := &Hub{self: o.Self, redact: o.Redact, salt: newSalt(), ring: newRing(max(o.Keep, minKeep)), count: newCounters()}
	if o.Log != nil {
		sub := h.subscribe(0, true, false)
		h.wg.Go(func() { h.drainLog(sub, o.Log) })
	}
	if o.Events != nil {
		sub := h.subscribe(0, true, true)
		h.wg.Go(func() { h.drainFile(sub, o.Events, o.Log) })
	}
	return h
}

// minKeep is the least number of records that a hub keeps.
const minKeep = 16

// Close writes out what is waiting and ends all subscriptions.
func (h *Hub) Close() {
	h.ring.close()
	h.wg.Wait()
}

// Role gives the observer of one loop. Role is a word of the config: anchor, gateway.
func (h *Hub) Role(role string) *Observer {
	return &Observer{h: h, role: role, count: h.count.role(role)}
}

// Observer implements loop.Observer for one loop.
type Observer struct {
	h     *Hub
	role  string
	count *roleCounters
}

// Emit takes what a machine says.
func (o *Observer) Emit(now core.Now, shard core.Shard, e core.Emit) {
	o.count.emit(&e)
	o.h.ring.put(Record{Boot: now.Boot, Wall: now.Wall, Role: o.role, Shard: shard, Kind: KindEvent, Name: e.Name, ID: e.ID,
		From: e.From, To: e.To, Why: e.Why, Fields: e.Fields})
}

// Message takes a signalling message; dir is in or out. Body may alias a buffer: it is described here or not at all.
func (o *Observer) Message(now core.Now, shard core.Shard, dir string, p core.Path, body any, err error) {
	o.count.message(dir, body, err)
	if o.h.messages.Load() == 0 {
		return
	}
	name, fields := describe(dir, p, body, err)
	o.h.ring.put(Record{Boot: now.Boot, Wall: now.Wall, Role: o.role, Shard: shard, Kind: KindMessage, Name: name, Fields: fields})
}

// StoreCommit counts one commit of the store.
func (o *Observer) StoreCommit(took time.Duration) { o.h.count.storeCommit.Observe(took.Seconds()) }

// LoopLag counts how late a loop was for its machine's deadline.
func (o *Observer) LoopLag(shard core.Shard, late time.Duration) { o.h.count.loopLag(shard, late) }

// Kinds of records.
const (
	KindEvent   = "event"   // a machine emitted it
	KindMessage = "message" // a signalling message
)

// Record is one thing that happened.
type Record struct {
	Seq           uint64 // its number in the process, from 1
	Boot          time.Duration
	Wall          time.Time
	Role          string
	Shard         core.Shard
	Kind, Name    string
	ID            core.ID
	From, To, Why string
	Fields        any
}

// Line is the JSON form of a record, one line of events, traces and conformance files.
type Line struct {
	Boot  int64           `json:"t_boot_ns"`
	Wall  time.Time       `json:"wall"`
	Self  string          `json:"self"`
	Shard core.Shard      `json:"shard"`
	Kind  string          `json:"kind"`
	Name  string          `json:"name"`
	ID    core.ID         `json:"id"`
	Body  json.RawMessage `json:"body"`
}

// Line encodes a record.
func (h *Hub) Line(r *Record) Line {
	body := h.fieldsOf(r)
	b, err := json.Marshal(body)
	if err != nil { // a field that JSON cannot say, as a channel: a fault of the machine, shown where it can be seen
		b, _ = json.Marshal(map[string]string{"role": r.Role, "err": err.Error()})
	}
	return Line{Boot: int64(r.Boot), Wall: r.Wall, Self: h.self, Shard: r.Shard, Kind: r.Kind, Name: r.Name, ID: r.ID, Body: b}
}

// drainFile writes the event stream. What cannot be written is lost, and told as such in the stream when it can be again.
func (h *Hub) drainFile(sub *Subscription, w io.Writer, log *slog.Logger) {
	var buf bytes.Buffer
	torn, missed := false, uint64(0)
	write := func(r *Record) bool {
		buf.Reset()
		if torn { // half a line is there
			buf.WriteByte('\n')
		}
		enc := json.NewEncoder(&buf)
		enc.SetEscapeHTML(false)
		_ = enc.Encode(h.Line(r)) // a Line always encodes
		n, err := w.Write(buf.Bytes())
		if err != nil && missed == 0 && log != nil { // once for each time: the log would be flooded
			log.Error("events cannot be written", "err", err)
		}
		if n > 0 {
			torn = buf.Bytes()[n-1] != '\n'
		}
		return err == nil
	}
	sub.each(func(r *Record, lost uint64) {
		missed += lost
		if missed > 0 {
			if !write(lostRecord(r, missed)) {
				missed++
				return
			}
			missed = 0
		}
		if !write(r) {
			missed++
		}
	})
}

// lostRecord tells a reader in its own stream how many records it lost.
func lostRecord(next *Record, lost uint64) *Record {
	r := *next
	return &Record{Seq: r.Seq, Boot: r.Boot, Wall: r.Wall, Role: r.Role, Shard: r.Shard, Kind: KindEvent, Name: "records-lost",
		Fields: map[string]any{"count": lost}}
}
