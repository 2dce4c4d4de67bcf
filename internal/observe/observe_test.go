package observe

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"kedge/internal/access"
	"kedge/internal/core"
	"kedge/internal/loop"
	"kedge/wire"
	"kedge/wire/ip"
	"kedge/wire/mobility"
	"kedge/wire/nd"
)

var _ loop.Observer = (*Observer)(nil)

var at = core.Now{Boot: 90 * time.Second, Wall: time.Date(2026, 11, 21, 12, 0, 0, 5e6, time.UTC)}

// plainLog writes lines without the time of logging.
func plainLog(w *bytes.Buffer, level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

func emitAll(h *Hub) {
	a, g := h.Role("anchor"), h.Role("gateway")
	g.Emit(at, 0, core.Emit{Name: "session", ID: 7, From: "requested", To: "active", Why: "accepted", Fields: map[string]any{
		"sub": "alice@example.net", "hoa": "10.20.0.10/16", "mac": core.MAC{2, 0, 0, 0, 0, 10}, "lifetime_s": 300, "peer": "lma1"}})
	g.Emit(at, 0, core.Emit{Name: "session", ID: 7, From: "active", To: "active", Why: "handoff"})
	a.Emit(at, 1, core.Emit{Name: "refused", Why: string(wire.PoolExhausted), Fields: map[string]any{"sub": "bob@example.net"}})
	a.Emit(at, 1, core.Emit{Name: "message-ignored", Why: string(wire.BadChecksum), Fields: map[string]any{"layer": "signalling", "peer": "2001:db8::9"}})
	g.Emit(at, 0, core.Emit{Name: "message-ignored", Why: string(wire.ForeignServer), Fields: map[string]any{"layer": "access"}})
	g.Emit(at, 0, core.Emit{Name: "handover", ID: 7, Why: "mld", Fields: map[string]any{"phase": "pba", "took_ms": 11.5}})
	g.Emit(at, 0, core.Emit{Name: "handover", ID: 7, Why: "mld", Fields: map[string]any{"phase": "total", "took_ms": 14.0}})
	g.Emit(at, 0, core.Emit{Name: "dropped", ID: 7, Why: string(wire.WrongSource)})
	g.Emit(at, 0, core.Emit{Name: "peer", From: "alive", To: "dead", Why: "no answer", Fields: map[string]any{"peer": "lma1"}})
	g.Emit(at, 0, core.Emit{Name: "clock", Fields: map[string]any{"peer": "lma1", "offset_ms": -250.0}})
	g.Emit(at, 0, core.Emit{Name: "retransmit", Fields: map[string]any{"type": "pbu"}})
}

// TestLog: one Info line a state change, refusals as warnings, the rest at debug; keys and their order are fixed.
func TestLog(t *testing.T) {
	var buf bytes.Buffer
	h := New(Options{Self: "mag1", Log: plainLog(&buf, slog.LevelInfo)})
	emitAll(h)
	h.Close()
	want := `level=INFO msg=session self=mag1 role=gateway id=7 sub=alice@example.net from=requested to=active reason=accepted peer=lma1 hoa=10.20.0.10/16 lifetime_s=300 mac=02:00:00:00:00:0a
level=INFO msg=session self=mag1 role=gateway id=7 from=active to=active reason=handoff
level=WARN msg=refused self=mag1 role=anchor sub=bob@example.net reason=pool-exhausted
level=INFO msg=peer self=mag1 role=gateway from=alive to=dead reason="no answer" peer=lma1
`
	if diff := cmp.Diff(want, buf.String()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	buf.Reset()
	h = New(Options{Self: "mag1", Log: plainLog(&buf, slog.LevelDebug)})
	emitAll(h)
	h.Close()
	if n := strings.Count(buf.String(), "\n"); n != 11 {
		t.Errorf("%d lines at debug, want 11:\n%s", n, buf.String())
	}
}

// TestRefusalsAreLimited: a stranger must not fill a disk.
func TestRefusalsAreLimited(t *testing.T) {
	var buf bytes.Buffer
	h := New(Options{Self: "lma1", Keep: 4096, Log: plainLog(&buf, slog.LevelInfo)})
	o := h.Role("anchor")
	for i := range 500 {
		o.Emit(core.Now{Boot: time.Duration(i) * time.Millisecond}, 0, core.Emit{Name: "refused", Why: "not-authorized"})
	}
	o.Emit(core.Now{Boot: 2 * time.Second}, 0, core.Emit{Name: "refused", Why: "not-authorized"})
	h.Close()
	if n := strings.Count(buf.String(), "msg=refused"); n != maxRefusals+1 {
		t.Errorf("%d refusals logged, want %d", n, maxRefusals+1)
	}
	if !strings.Contains(buf.String(), "count=490") {
		t.Errorf("the log does not say how many are hidden:\n%s", buf.String())
	}
}

// TestRedact: identifiers of hosts are shortened, and two stay two.
func TestRedact(t *testing.T) {
	var log, events bytes.Buffer
	h := New(Options{Self: "mag1", Log: plainLog(&log, slog.LevelDebug), Events: &events, Redact: true})
	emitAll(h)
	h.Close()
	all := log.String() + events.String()
	for _, id := range []string{"alice@example", "bob@example", "10.20.0.10", "02:00:00:00:00:0a"} {
		if strings.Contains(all, id) {
			t.Errorf("%s is in log or events:\n%s", id, all)
		}
	}
	if a, b := h.shorten("alice@example.net"), h.shorten("alice@example.org"); a == b || a != h.shorten("alice@example.net") || !strings.HasPrefix(a, "alic…") {
		t.Errorf("%s and %s", a, b)
	}
}

// TestNoKeys: key material stays here even if a machine emits it.
func TestNoKeys(t *testing.T) {
	var log, events bytes.Buffer
	h := New(Options{Self: "mag1", Log: plainLog(&log, slog.LevelDebug), Events: &events})
	h.Role("anchor").Emit(at, 0, core.Emit{Name: "sa", Fields: map[string]any{"auth_key": "0123456789abcdef", "password": "hunter2", "spi": 0x101}})
	h.Close()
	if all := log.String() + events.String(); strings.Contains(all, "0123456789abcdef") || strings.Contains(all, "hunter2") || !strings.Contains(all, "257") {
		t.Errorf("log and events:\n%s", all)
	}
}

// TestLines: the form of the event stream, which traces and conformance files share.
func TestLines(t *testing.T) {
	var events bytes.Buffer
	h := New(Options{Self: "mag1", Events: &events})
	o := h.Role("gateway")
	o.Emit(at, 3, core.Emit{Name: "session", ID: 7, From: "requested", To: "active", Why: "accepted", Fields: map[string]any{"sub": "a<b@x", "took": 1500 * time.Microsecond}})
	pbu := &mobility.BindingUpdate{Sequence: 9, Flags: mobility.BUAck | mobility.BUProxy, Lifetime: 75}
	pbu.Options = pbu.Options.Add(mobility.MobileNodeID{Subtype: 1, ID: "alice@example.net"}, mobility.HandoffIndicator{Value: 4},
		mobility.HomeNetworkPrefix{Prefix: netip.MustParsePrefix("2001:db8:1000::/64")}, mobility.IPv4HomeAddressRequest{Addr: netip.MustParseAddr("0.0.0.0")})
	path := core.Path{Local: netip.MustParseAddrPort("[2001:db8:a::11]:0"), Remote: netip.MustParseAddrPort("[2001:db8:a::1]:0")}
	o.Message(at, 3, "out", path, pbu, nil)
	o.Message(at, 3, "in", path, nil, &wire.Error{Msg: "Binding Acknowledgement", Field: "Status", Off: 6, Reason: wire.Truncated})
	var none *access.Frame
	o.Message(at, 3, "in", core.Path{If: 4}, none, nil)
	o.Emit(at, 3, core.Emit{Name: "odd", Fields: struct {
		Hosts int `json:"hosts"`
	}{5}})
	h.Close()
	want := `{"t_boot_ns":90000000000,"wall":"2026-11-21T12:00:00.005Z","self":"mag1","shard":3,"kind":"event","name":"session","id":7,"body":{"from":"requested","reason":"accepted","role":"gateway","sub":"a\u003cb@x","to":"active","took":"1.5ms"}}
{"t_boot_ns":90000000000,"wall":"2026-11-21T12:00:00.005Z","self":"mag1","shard":3,"kind":"message","name":"PBU","id":0,"body":{"dialect":"rfc5844","dir":"out","flags":"AP","handoff":4,"hnp":"2001:db8:1000::/64","hoa":"0.0.0.0/0","lifetime_s":300,"local":"2001:db8:a::11","remote":"2001:db8:a::1","role":"gateway","seq":9,"sub":"alice@example.net","type":"pbu"}}
{"t_boot_ns":90000000000,"wall":"2026-11-21T12:00:00.005Z","self":"mag1","shard":3,"kind":"message","name":"UNREADABLE","id":0,"body":{"dir":"in","drop":"truncated","err":"Binding Acknowledgement: Status at octet 6: truncated","local":"2001:db8:a::11","remote":"2001:db8:a::1","role":"gateway","type":"unreadable"}}
{"t_boot_ns":90000000000,"wall":"2026-11-21T12:00:00.005Z","self":"mag1","shard":3,"kind":"message","name":"UNREADABLE","id":0,"body":{"dir":"in","if_index":4,"role":"gateway","type":"unreadable"}}
{"t_boot_ns":90000000000,"wall":"2026-11-21T12:00:00.005Z","self":"mag1","shard":3,"kind":"event","name":"odd","id":0,"body":{"hosts":5,"role":"gateway"}}
`
	if diff := cmp.Diff(want, events.String()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	for _, line := range strings.Split(strings.TrimSpace(events.String()), "\n") {
		var l Line
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
}

// brokenWriter fails after some octets.
type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("disk full") }

// TestBrokenStream: a full disk is told once, and stops nothing.
func TestBrokenStream(t *testing.T) {
	var log bytes.Buffer
	h := New(Options{Self: "mag1", Events: brokenWriter{}, Log: plainLog(&log, slog.LevelError)})
	emitAll(h)
	h.Close()
	if n := strings.Count(log.String(), "disk full"); n != 1 {
		t.Errorf("told %d times:\n%s", n, log.String())
	}
}

// TestSlowReader: the writer never waits; a reader that is too slow learns how many records it lost.
func TestSlowReader(t *testing.T) {
	h := New(Options{Self: "mag1", Keep: 16})
	defer h.Close()
	sub, err := h.Subscribe(0, false)
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	o := h.Role("gateway")
	for i := range 100 { // returns: nobody reads
		o.Emit(at, 0, core.Emit{Name: fmt.Sprint("e", i)})
	}
	r, lost, err := sub.Next(t.Context())
	if err != nil || lost != 84 || r.Name != "e84" || r.Seq != 85 {
		t.Fatalf("%+v lost %d %v, want e84 after 84 lost", r, lost, err)
	}
	for i := 85; i < 100; i++ {
		r, lost, err := sub.Next(t.Context())
		if err != nil || lost != 0 || r.Name != fmt.Sprint("e", i) {
			t.Fatalf("%+v lost %d %v, want e%d", r, lost, err, i)
		}
	}
	if sub.Pending() {
		t.Error("more is pending")
	}
}

// TestBacklog: a new reader gets the newest records that are there, and then what happens.
func TestBacklog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New(Options{Self: "mag1", Keep: 16})
		o := h.Role("gateway")
		for i := range 20 {
			o.Emit(at, 0, core.Emit{Name: fmt.Sprint("e", i)})
		}
		for _, c := range []struct {
			backlog int
			first   string
		}{{3, "e17"}, {16, "e4"}, {1000, "e4"}, {0, "new"}, {-1, "new"}} {
			first := c.first
			sub, err := h.Subscribe(c.backlog, false)
			if err != nil {
				t.Fatal(err)
			}
			got := make(chan string, 1)
			go func() {
				r, lost, err := sub.Next(t.Context())
				if err != nil || lost != 0 {
					got <- fmt.Sprint(lost, err)
					return
				}
				got <- r.Name
			}()
			synctest.Wait() // the reader has what is there, or waits
			if first == "new" {
				o.Emit(at, 0, core.Emit{Name: "new"})
			}
			if n := <-got; n != first {
				t.Errorf("backlog %d begins with %s, want %s", c.backlog, n, first)
			}
			sub.Close()
			sub.Close() // twice is once
		}
		waiting, err := h.Subscribe(0, true)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() {
			_, _, err := waiting.Next(t.Context())
			ended <- err
		}()
		synctest.Wait()
		h.Close()
		if err := <-ended; !errors.Is(err, ErrClosed) {
			t.Errorf("a reader of a closed hub gets %v", err)
		}
		late, err := h.Subscribe(2, false)
		if err != nil {
			t.Fatal(err)
		}
		if r, _, err := late.Next(t.Context()); err != nil || r == nil {
			t.Errorf("what was recorded is lost after the end: %v", err)
		}
		h.Close() // twice is once
	})
}

func TestTooManyReaders(t *testing.T) {
	h := New(Options{Self: "mag1"})
	defer h.Close()
	for range MaxSubscriptions {
		if _, err := h.Subscribe(0, false); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.Subscribe(0, false); !errors.Is(err, ErrTooMany) {
		t.Errorf("one more: %v", err)
	}
}

// TestMessagesOnlyForReaders: messages are described only while somebody wants them.
func TestMessagesOnlyForReaders(t *testing.T) {
	h := New(Options{Self: "mag1"})
	defer h.Close()
	o := h.Role("gateway")
	o.Message(at, 0, "in", core.Path{}, &mobility.Heartbeat{}, nil)
	with, _ := h.Subscribe(100, true)
	without, _ := h.Subscribe(100, false)
	o.Message(at, 0, "in", core.Path{}, &mobility.Heartbeat{Sequence: 2}, nil)
	o.Emit(at, 0, core.Emit{Name: "e"})
	if r, _, err := with.Next(t.Context()); err != nil || r.Name != "HEARTBEAT" || r.Fields.(map[string]any)["seq"] != uint32(2) {
		t.Errorf("%+v %v, want the second heartbeat: nobody wanted the first", r, err)
	}
	if r, _, err := without.Next(t.Context()); err != nil || r.Name != "e" {
		t.Errorf("%+v %v, want the event only", r, err)
	}
	with.Close()
	before := h.ring.next
	o.Message(at, 0, "in", core.Path{}, &mobility.Heartbeat{}, nil)
	if h.ring.next != before {
		t.Error("a message is recorded although nobody wants any more")
	}
}

// TestMessageAllocates nothing: loops call it for every packet.
func TestMessageAllocatesNothing(t *testing.T) {
	h := New(Options{Self: "mag1"})
	defer h.Close()
	o := h.Role("gateway")
	var body any = &mobility.BindingAck{Flags: mobility.BAProxy, Status: 155}
	if n := testing.AllocsPerRun(1000, func() { o.Message(at, 0, "in", core.Path{}, body, nil) }); n != 0 {
		t.Errorf("%v allocations a message", n)
	}
}

// TestMetrics: the names and labels are the contract.
func TestMetrics(t *testing.T) {
	h := New(Options{Self: "mag1"})
	defer h.Close()
	emitAll(h)
	o := h.Role("gateway")
	path := core.Path{}
	o.Message(at, 0, "out", path, &mobility.BindingUpdate{Flags: mobility.BUProxy}, nil)
	o.Message(at, 0, "out", path, &mobility.BindingUpdate{}, nil)
	o.Message(at, 0, "in", path, &mobility.BindingAck{Flags: mobility.BAProxy}, nil)
	o.Message(at, 0, "in", path, &mobility.BindingAck{Flags: mobility.BAProxy, Status: 155}, nil)
	o.Message(at, 0, "in", path, &mobility.BindingAck{Flags: mobility.BAProxy, Status: 155}, nil)
	o.Message(at, 0, "in", path, &mobility.BindingAck{}, &wire.Error{Reason: wire.Truncated})
	o.Message(at, 0, "in", path, &mobility.Revocation{Ack: true, Code: 1}, nil)
	o.StoreCommit(3 * time.Millisecond)
	o.LoopLag(0, 150*time.Microsecond)
	for _, pool := range []string{"v4", "hnp"} {
		h.AddSource(Source{Role: "anchor",
			Status: func() (core.Status, bool) {
				return core.Status{Sessions: map[string]int{"active": 2}, Pools: []core.PoolStatus{{Name: pool, Free: 10}}}, true
			},
			Drops: func() map[string]uint64 { return map[string]uint64{string(wire.WrongSource): 3} }})
	}
	h.AddSource(Source{Role: "gateway", Status: func() (core.Status, bool) { return core.Status{}, false }})
	n := h.Role("node")
	for range 2 {
		n.Emit(at, 0, core.Emit{Name: "path", From: "alive", To: "dead", Why: "no-answer", Fields: map[string]any{"coa": "192.0.2.7"}})
	}
	for range 2 {
		n.Emit(at, 0, core.Emit{Name: "restored", Why: "another program removed it", Fields: map[string]any{"rules": 4, "addresses": 1, "hold_ms": 250.0}})
	}
	n.Message(at, 0, "out", path, &ip.Echo{}, nil)
	n.Message(at, 0, "in", path, &ip.Echo{Reply: true}, nil)
	h.AddSource(Source{Role: "node", Refused: func() map[string]uint64 { return map[string]uint64{string(wire.Replayed): 4} }, Bindings: func() ([]core.Binding, bool) {
		coa := netip.MustParseAddr("192.0.2.7")
		return []core.Binding{{CareOf: coa, Framing: "udp"}, {CareOf: coa, Framing: "udp"}}, true
	}})
	want := `
# HELP kedge_care_of Bindings of a mobile node by the family of its care-of address and the framing of packets.
# TYPE kedge_care_of gauge
kedge_care_of{family="v4",framing="udp"} 2
# HELP kedge_clock_offset_seconds A peer's clock minus ours, when it last refused a timestamp.
# TYPE kedge_clock_offset_seconds gauge
kedge_clock_offset_seconds{peer="lma1"} -0.25
# HELP kedge_drops_total Messages and packets that were dropped.
# TYPE kedge_drops_total counter
kedge_drops_total{layer="access",reason="foreign-server",role="gateway"} 1
kedge_drops_total{layer="forwarding",reason="wrong-source",role="anchor"} 6
kedge_drops_total{layer="security",reason="replayed",role="node"} 4
kedge_drops_total{layer="signalling",reason="bad-checksum",role="anchor"} 1
# HELP kedge_messages_total Signalling messages; status is that of an answer.
# TYPE kedge_messages_total counter
kedge_messages_total{dir="in",role="gateway",status="",type="unreadable"} 1
kedge_messages_total{dir="in",role="gateway",status="0",type="pba"} 1
kedge_messages_total{dir="in",role="gateway",status="1",type="bra"} 1
kedge_messages_total{dir="in",role="gateway",status="155",type="pba"} 2
kedge_messages_total{dir="out",role="gateway",status="",type="bu"} 1
kedge_messages_total{dir="out",role="gateway",status="",type="pbu"} 1
kedge_messages_total{dir="in",role="node",status="",type="echo-reply"} 1
kedge_messages_total{dir="out",role="node",status="",type="echo"} 1
# HELP kedge_path_changes_total What a mobile node found out about its path to the home agent: dead, alive, udp.
# TYPE kedge_path_changes_total counter
kedge_path_changes_total{reason="no-answer",role="node",to="dead"} 2
# HELP kedge_pool_free Addresses or prefixes of a pool that can be handed out.
# TYPE kedge_pool_free gauge
kedge_pool_free{pool="hnp"} 10
kedge_pool_free{pool="v4"} 10
# HELP kedge_refusals_total Requests that were refused.
# TYPE kedge_refusals_total counter
kedge_refusals_total{reason="pool-exhausted",role="anchor"} 1
# HELP kedge_restored_total Rules, routes, addresses and settings that were put back because another program had removed them.
# TYPE kedge_restored_total counter
kedge_restored_total{kind="addresses",role="node"} 2
kedge_restored_total{kind="rules",role="node"} 8
# HELP kedge_retransmits_total Requests that were sent again.
# TYPE kedge_retransmits_total counter
kedge_retransmits_total{role="gateway",type="pbu"} 1
# HELP kedge_sessions Sessions by state.
# TYPE kedge_sessions gauge
kedge_sessions{role="anchor",state="active"} 4
`
	names := []string{"kedge_clock_offset_seconds", "kedge_drops_total", "kedge_messages_total", "kedge_pool_free", "kedge_refusals_total",
		"kedge_care_of", "kedge_path_changes_total", "kedge_restored_total", "kedge_retransmits_total", "kedge_sessions"}
	if err := testutil.GatherAndCompare(h.Gatherer(), strings.NewReader(want), names...); err != nil {
		t.Error(err)
	}
	got, err := h.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]uint64{}
	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	allowed := map[string]bool{"kedge_handover_seconds": true, "kedge_store_commit_seconds": true, "kedge_loop_lag_seconds": true}
	for _, n := range names {
		allowed[n] = true
	}
	for n := range allowed {
		if !bytes.Contains(page, []byte("`"+n+"`")) {
			t.Errorf("docs/operations.md does not have %s", n)
		}
	}
	for _, f := range got {
		if n := f.GetName(); strings.HasPrefix(n, "kedge_") && !allowed[n] {
			t.Errorf("metric %s is in no contract", n)
		}
		for _, m := range f.GetMetric() {
			if h := m.GetHistogram(); h != nil {
				key := f.GetName()
				for _, l := range m.GetLabel() {
					key += " " + l.GetName() + "=" + l.GetValue()
				}
				if strings.HasPrefix(key, "kedge_") && h.GetSampleCount() > 0 {
					counts[key] = h.GetSampleCount()
				}
			}
		}
	}
	wantCounts := map[string]uint64{"kedge_store_commit_seconds": 1, "kedge_loop_lag_seconds shard=0": 1,
		"kedge_handover_seconds phase=pba role=gateway": 1, "kedge_handover_seconds phase=total role=gateway": 1}
	if diff := cmp.Diff(wantCounts, counts); diff != "" {
		t.Errorf("histograms: -want +got:\n%s", diff)
	}
}

// TestSeriesAreLimited: text from outside cannot make series without end.
func TestSeriesAreLimited(t *testing.T) {
	h := New(Options{Self: "mag1"})
	defer h.Close()
	o := h.Role("gateway")
	for i := range 10 * maxSeries {
		o.Emit(at, 0, core.Emit{Name: "refused", Why: fmt.Sprint("reason-", i)})
		o.Emit(at, 0, core.Emit{Name: "message-ignored", Why: fmt.Sprint("reason-", i)})
		o.Emit(at, 0, core.Emit{Name: "path", To: "dead", Why: fmt.Sprint("reason-", i)})
		o.Emit(at, 0, core.Emit{Name: "handover", Fields: map[string]any{"phase": fmt.Sprint("p", i), "took_ms": 1.0}})
		o.Emit(at, 0, core.Emit{Name: "clock", Fields: map[string]any{"peer": fmt.Sprint("p", i), "offset_ms": 1.0}})
	}
	if n, err := testutil.GatherAndCount(h.Gatherer(), "kedge_refusals_total", "kedge_drops_total", "kedge_clock_offset_seconds", "kedge_path_changes_total"); err != nil || n > 4*(maxSeries+1) {
		t.Errorf("%d series, %v", n, err)
	}
	if n, err := testutil.GatherAndCount(h.Gatherer(), "kedge_handover_seconds"); err != nil || n != maxPhases+1 {
		t.Errorf("%d phases, %v", n, err)
	}
}

// TestConcurrent: loops, readers and scrapes at once.
func TestConcurrent(t *testing.T) {
	var log, events bytes.Buffer
	h := New(Options{Self: "mag1", Keep: 64, Log: plainLog(&log, slog.LevelDebug), Events: &events})
	var wg, readers sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			o := h.Role([]string{"anchor", "gateway"}[i%2])
			for n := range 200 {
				o.Emit(at, core.Shard(i), core.Emit{Name: "session", ID: core.ID(n), From: "a", To: "b", Fields: map[string]any{"seq": n}})
				o.Message(at, core.Shard(i), "in", core.Path{}, &mobility.Heartbeat{}, nil)
				o.LoopLag(core.Shard(i), time.Microsecond)
			}
		})
		readers.Go(func() { // until the hub ends
			sub, err := h.Subscribe(10, i%2 == 0)
			if err != nil {
				t.Error(err)
				return
			}
			defer sub.Close()
			for err == nil {
				_, _, err = sub.Next(t.Context())
			}
		})
		wg.Go(func() {
			if _, err := h.Gatherer().Gather(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	h.Close()
	readers.Wait()
}

func TestClassify(t *testing.T) {
	for _, c := range []struct {
		body   any
		name   string
		status int
	}{
		{&mobility.BindingUpdate{}, "bu", -1}, {&mobility.BindingUpdate{Flags: mobility.BUProxy}, "pbu", -1},
		{&mobility.BindingAck{Status: 130}, "ba", 130}, {&mobility.BindingAck{Flags: mobility.BAProxy}, "pba", 0},
		{&mobility.Heartbeat{}, "heartbeat", -1}, {&mobility.Revocation{}, "bri", -1}, {&mobility.Revocation{Ack: true, Code: 2}, "bra", 2},
		{&mobility.BindingError{Status: 1}, "be", 1}, {&mobility.BindingRefreshRequest{}, "brr", -1}, {&mobility.Raw{MHType: 99}, "mh", -1},
		{&mobility.TestInit{}, "hoti", -1}, {&mobility.TestInit{CareOf: true}, "coti", -1}, {&mobility.Test{}, "hot", -1}, {&mobility.Test{CareOf: true}, "cot", -1},
		{&mobility.Authorized{Message: &mobility.BindingAck{Status: 135}}, "ba", 135}, {&ip.Echo{}, "echo", -1}, {&ip.Echo{Reply: true}, "echo-reply", -1}, {(*ip.Echo)(nil), "unreadable", -1},
		{&mobility.HomeAgentSwitch{}, "has", -1}, {&nd.HomeAgentAddressDiscoveryRequest{}, "dhaad-request", -1}, {&nd.HomeAgentAddressDiscoveryReply{}, "dhaad-reply", -1},
		{&nd.MobilePrefixSolicitation{}, "mps", -1}, {&nd.MobilePrefixAdvertisement{}, "mpa", -1},
		{&access.Frame{}, "frame", -1}, {(*access.Frame)(nil), "unreadable", -1}, {nil, "unreadable", -1}, {42, "frame", -1},
	} {
		if typ, status := classify(c.body); typeNames[typ] != c.name || status != c.status {
			t.Errorf("%T: %s %d, want %s %d", c.body, typeNames[typ], status, c.name, c.status)
		}
	}
}

// smallDisk takes room octets, then none until room is made.
type smallDisk struct {
	bytes.Buffer
	room int
}

func (d *smallDisk) Write(b []byte) (int, error) {
	n := min(len(b), d.room)
	d.room -= n
	d.Buffer.Write(b[:n])
	if n < len(b) {
		return n, errors.New("no space left on device")
	}
	return n, nil
}

// TestEventsAfterAFullDisk: the stream goes on when there is room again, says how much is missing, and every line but the torn one
// can be read.
func TestEventsAfterAFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := &smallDisk{room: 300}
		var log bytes.Buffer
		h := New(Options{Self: "mag1", Events: disk, Log: plainLog(&log, slog.LevelError)})
		emit := func(name string) {
			h.Role("gateway").Emit(at, 0, core.Emit{Name: name})
			synctest.Wait()
		}
		for range 10 {
			emit("early")
		}
		disk.room = 1 // no room for a line, but for its beginning
		emit("early")
		disk.room = 1 << 20
		emit("late")
		h.Close()
		var names []string
		torn := 0
		for line := range strings.Lines(disk.String()) {
			var l Line
			if json.Unmarshal([]byte(line), &l) != nil {
				torn++
				continue
			}
			names = append(names, l.Name)
			if l.Name == "records-lost" && !strings.Contains(string(l.Body), `"count":`+fmt.Sprint(11-len(names)+1)) {
				t.Errorf("it says %s after %d of 11 lines", l.Body, len(names)-1)
			}
		}
		if n := len(names); torn != 1 || n < 3 || names[n-2] != "records-lost" || names[n-1] != "late" {
			t.Errorf("%d torn lines, and %q; want one, and the end to be records-lost, late", torn, names)
		}
		if n := strings.Count(log.String(), "cannot be written"); n != 1 {
			t.Errorf("logged %d times", n)
		}
	})
}

// TestDescribeDiscovery: a ladder shows who is found and which prefixes are told.
func TestDescribeDiscovery(t *testing.T) {
	a := []netip.Addr{netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")}
	p := &nd.PrefixInformation{Prefix: netip.MustParsePrefix("2001:db8::/64"), Valid: 20, Preferred: 10}
	for _, c := range []struct {
		body      any
		name, key string
		want      any
	}{
		{&nd.HomeAgentAddressDiscoveryRequest{ID: 7, Mobile: true}, "DHAAD-REQUEST", "mobile_router", true},
		{&nd.HomeAgentAddressDiscoveryReply{ID: 7, Addresses: a}, "DHAAD-REPLY", "home_agents", "2001:db8::1 2001:db8::2"},
		{&nd.MobilePrefixSolicitation{ID: 7}, "MPS", "id", uint16(7)},
		{&nd.MobilePrefixAdvertisement{Options: nd.Options{p}}, "MPA", "prefixes", "2001:db8::/64 10/20"},
		{&mobility.HomeAgentSwitch{Addresses: a[:1]}, "HAS", "home_agents", "2001:db8::1"},
	} {
		if name, f := describe("in", core.Path{}, c.body, nil); name != c.name || f[c.key] != c.want {
			t.Errorf("%T: %s %v", c.body, name, f)
		}
	}
}
