package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kedge/internal/core"
	"kedge/internal/loop"
	"kedge/internal/observe"
	"kedge/wire"
)

var _ Commander = (*loop.Loop)(nil)

// machine answers commands from a table.
type machine struct {
	role string
	got  chan any
	err  error
	hang bool
}

func (m *machine) Command(ctx context.Context, body any) (any, error) {
	if m.hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if m.err != nil {
		return nil, m.err
	}
	alice := core.Binding{ID: "alice@example.net", Session: 7, ProxyCoA: netip.MustParseAddr("2001:db8:a::11"), State: "active", IPv4: netip.MustParsePrefix("10.20.0.10/16"), Families: []string{"v4"}}
	switch c := body.(type) {
	case core.GetStatus:
		return core.Status{Role: m.role, Sessions: map[string]int{"active": 2}}, nil
	case core.GetBindings:
		all := []core.Binding{alice, {ID: "bob@example.net", State: "deprecated"}}
		if c.Filter != "" {
			all = all[:1]
		}
		return all, nil
	case core.Explain:
		if c.ID != alice.ID {
			return core.Explanation{ID: c.ID}, nil
		}
		return &core.Explanation{ID: c.ID, Profile: "list", Bindings: []core.Binding{alice}}, nil
	}
	if m.got != nil {
		m.got <- body
	}
	return nil, nil
}

// serve runs a server on a socket of its own until the test ends.
func serve(t *testing.T, cfg Config) (*Client, *Server) {
	t.Helper()
	if cfg.Socket == "" {
		cfg.Socket = filepath.Join(t.TempDir(), "s")
	}
	s := New(cfg)
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	c := NewClient(cfg.Socket)
	t.Cleanup(func() {
		c.Close()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the server ends with %v", err)
		}
		if _, err := os.Stat(cfg.Socket); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket is left behind: %v", err)
		}
	})
	return c, s
}

func gateway(m *machine) Config {
	m.role = "gateway"
	return Config{Self: "mag1", Version: "1", Started: time.Unix(0, 0).UTC(), Roles: []Role{{Name: "gateway", Commander: m}},
		Warnings: []Warning{{Where: "a.yaml:6", Key: "k", Kind: "unprotected", Text: "t"}}}
}

func TestAsk(t *testing.T) {
	ctx := t.Context()
	got := make(chan any, 1)
	c, _ := serve(t, gateway(&machine{got: got}))
	st, err := c.Status(ctx)
	want := &Status{Self: "mag1", Version: "1", Started: time.Unix(0, 0).UTC(), Roles: []core.Status{{Role: "gateway", Sessions: map[string]int{"active": 2}}},
		Warnings: []Warning{{Where: "a.yaml:6", Key: "k", Kind: "unprotected", Text: "t"}}}
	if diff := cmp.Diff(want, st); diff != "" || err != nil {
		t.Errorf("status: %v\n%s", err, diff)
	}
	list, err := c.Bindings(ctx, "", 0)
	if err != nil || list.Total != 2 || len(list.Bindings) != 2 || list.Bindings[0].ID != "alice@example.net" || list.Bindings[0].Role != "gateway" ||
		list.Bindings[0].IPv4 != netip.MustParsePrefix("10.20.0.10/16") {
		t.Errorf("bindings: %+v %v", list, err)
	}
	if list, err = c.Bindings(ctx, "10.20.0.10 & more?", 0); err != nil || list.Total != 1 {
		t.Errorf("filter: %+v %v", list, err)
	}
	if list, err = c.Bindings(ctx, "", 1); err != nil || list.Total != 2 || len(list.Bindings) != 1 {
		t.Errorf("limit: %+v %v", list, err)
	}
	ex, err := c.Explain(ctx, "alice@example.net")
	if err != nil || len(ex) != 1 || ex[0].Role != "gateway" || ex[0].Profile != "list" || len(ex[0].Bindings) != 1 {
		t.Errorf("explain: %+v %v", ex, err)
	}
	if err := c.Health(ctx); err != nil {
		t.Errorf("health: %v", err)
	}
	mac := core.MAC{2, 0, 0, 0, 0, 10}
	if err := c.Attach(ctx, core.Attach{If: "acc0", MAC: mac, ID: "alice@example.net", Previous: "2001:db8:a::12"}); err != nil {
		t.Error(err)
	}
	if b := <-got; b != (core.Attach{If: "acc0", MAC: mac, ID: "alice@example.net", Previous: "2001:db8:a::12"}) {
		t.Errorf("attach arrives as %+v", b)
	}
	if err := c.Detach(ctx, core.Detach{If: "acc0", MAC: mac}); err != nil {
		t.Error(err)
	}
	if b := <-got; b != (core.Detach{If: "acc0", MAC: mac}) {
		t.Errorf("detach arrives as %+v", b)
	}
}

// TestErrors: every wrong request has its status, its words, and what to do.
func TestErrors(t *testing.T) {
	c, _ := serve(t, gateway(&machine{}))
	anchor, _ := serve(t, Config{Roles: []Role{{Name: "anchor", Commander: &machine{role: "anchor"}}}})
	refusing, _ := serve(t, gateway(&machine{err: fmt.Errorf("acc9: %w", wire.InterfaceUnsupported)}))
	odd, _ := serve(t, Config{Roles: []Role{{Name: "gateway", Commander: oddMachine{}}}})
	for _, x := range []struct {
		name, method, path, body string
		c                        *Client
		status                   int
		words                    string
	}{
		{"no such path", "GET", "/v1/nothing", "", c, 404, "nothing is at /v1/nothing: see /v1/status"},
		{"root", "GET", "/", "", c, 404, "nothing is at /: see /v1/status"},
		{"wrong method", "POST", "/v1/status", "{}", c, 405, "POST is not for /v1/status: use GET"},
		{"wrong method of a command", "GET", "/v1/attach", "", c, 405, "GET is not for /v1/attach: use POST"},
		{"delete", "DELETE", "/v1/bindings", "", c, 405, "DELETE is not for /v1/bindings: use GET"},
		{"unknown host", "GET", "/v1/explain/carol", "", c, 404, `nothing is known about "carol": the bindings have the ids that are known, the log has messages that were refused`},
		{"no host", "GET", "/v1/explain/", "", c, 400, "no id is given: name a host as in /v1/explain/alice@example.net"},
		{"limit", "GET", "/v1/bindings?limit=-1", "", c, 400, `limit "-1" is no number of things: send 0 to 1000000`},
		{"backlog", "GET", "/v1/events?backlog=many", "", c, 400, `backlog "many" is no number of things: send 0 to 1000000`},
		{"messages", "GET", "/v1/events?messages=2", "", c, 400, `messages "2" is neither true nor false: send true or false`},
		{"no events", "GET", "/v1/events", "", c, 404, "this daemon keeps no events"},
		{"no metrics", "GET", "/metrics", "", c, 404, "nothing is at /metrics: see /v1/status"},
		{"attach: empty", "POST", "/v1/attach", "", c, 400, "the body cannot be read: EOF: send one JSON object"},
		{"attach: no JSON", "POST", "/v1/attach", "acc0", c, 400, "the body cannot be read: invalid character 'a' looking for beginning of value: send one JSON object"},
		{"attach: unknown field", "POST", "/v1/attach", `{"iface":"acc0"}`, c, 400, `the body cannot be read: json: unknown field "iface": send one JSON object`},
		{"attach: bad MAC", "POST", "/v1/attach", `{"interface":"acc0","mac":"02:00"}`, c, 400,
			`the body cannot be read: "02:00" is no MAC address: want six octets as in 02:00:00:00:00:0a: send one JSON object`},
		{"attach: no MAC", "POST", "/v1/attach", `{"interface":"acc0"}`, c, 400, `interface or mac is missing: send {"interface": "acc0", "mac": "02:00:00:00:00:0a"}`},
		{"attach: bad gateway", "POST", "/v1/attach", `{"interface":"acc0","mac":"02:00:00:00:00:0a","previous":"mag2"}`, c, 400,
			`previous "mag2" is no address: send the address of the former gateway`},
		{"attach: two objects", "POST", "/v1/attach", `{"interface":"acc0","mac":"02:00:00:00:00:0a"}{}`, c, 400, "something follows the JSON object: send one object"},
		{"attach: too long", "POST", "/v1/attach", `{"interface":"` + strings.Repeat("a", maxBody) + `"}`, c, 413, "http: request body too large: send at most 65536 octets"},
		{"detach: nothing", "POST", "/v1/detach", `{}`, c, 400, `interface or mac is missing: send {"interface": "acc0", "mac": "02:00:00:00:00:0a"}`},
		{"attach at an anchor", "POST", "/v1/attach", `{"interface":"acc0","mac":"02:00:00:00:00:0a"}`, anchor, 409, "this daemon is no gateway: ask the gateway of the access link"},
		{"refused", "POST", "/v1/attach", `{"interface":"acc9","mac":"02:00:00:00:00:0a"}`, refusing, 422, "acc9: unknown-interface"},
		{"sick", "GET", "/healthz", "", refusing, 503, "the gateway does not answer: acc9: unknown-interface: see the log"},
		{"a machine that answers nonsense", "GET", "/v1/status", "", odd, 500, "the gateway answers int to core.GetStatus"},
	} {
		t.Run(x.name, func(t *testing.T) {
			var body []byte
			if x.body != "" {
				body = []byte(x.body)
			}
			_, err := x.c.do(t.Context(), x.method, x.path, body)
			var e *Error
			if !errors.As(err, &e) || e.Status != x.status || e.Error() != x.words {
				t.Errorf("%v, want %d %s", err, x.status, x.words)
			}
			if x.name == "refused" && e.Reason != string(wire.InterfaceUnsupported) {
				t.Errorf("reason %q", e.Reason)
			}
		})
	}
}

type oddMachine struct{}

func (oddMachine) Command(context.Context, any) (any, error) { return 42, nil }

// TestHang: a machine that does not answer costs the client a bounded time.
func TestHang(t *testing.T) {
	c, _ := serve(t, gateway(&machine{hang: true}))
	var e *Error
	start := time.Now()
	if err := c.Health(t.Context()); !errors.As(err, &e) || e.Status != 503 || time.Since(start) > commandTimeout {
		t.Errorf("%v after %v", err, time.Since(start))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Status(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a client that gives up gets %v", err)
	}
}

func TestEvents(t *testing.T) {
	hub := observe.New(observe.Options{Self: "mag1", Keep: 64})
	defer hub.Close()
	o := hub.Role("gateway")
	emit := func(names ...string) {
		for _, n := range names {
			o.Emit(core.Now{Wall: time.Unix(1, 0).UTC()}, 0, core.Emit{Name: n, From: "a", To: "b"})
		}
	}
	emit("one", "two", "three")
	cfg := gateway(&machine{})
	cfg.Hub, cfg.Gatherer = hub, hub.Gatherer()
	c, _ := serve(t, cfg)

	var got []string
	err := c.Events(t.Context(), EventOptions{Backlog: 2, Once: true}, func(ev Event) error {
		got = append(got, fmt.Sprintf("%d %s %s", ev.Seq, ev.Line.Name, ev.Line.Body))
		return nil
	})
	want := []string{`2 two {"from":"a","role":"gateway","to":"b"}`, `3 three {"from":"a","role":"gateway","to":"b"}`}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("backlog: %v\n%s", err, diff)
	}

	// Following: what happens later arrives; the client ends it.
	enough := errors.New("enough")
	got = nil
	err = c.Events(t.Context(), EventOptions{Backlog: 1}, func(ev Event) error {
		got = append(got, ev.Line.Name)
		switch ev.Line.Name {
		case "three":
			emit("four", "five")
		case "five":
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) || strings.Join(got, " ") != "three four five" {
		t.Errorf("following: %v %v", got, err)
	}

	// A cancelled client is no error of the server; the context's error is the client's.
	ctx, cancel := context.WithCancel(t.Context())
	err = c.Events(ctx, EventOptions{Backlog: 1}, func(Event) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}

	text, err := c.Metrics(t.Context())
	if err != nil || !strings.Contains(text, "kedge_store_commit_seconds_count 0") {
		t.Errorf("metrics: %v\n%s", err, text)
	}
}

// TestLostEvents: a reader that is slower than the events is told how many it lost.
func TestLostEvents(t *testing.T) {
	hub := observe.New(observe.Options{Self: "mag1", Keep: 16})
	defer hub.Close()
	sub, err := hub.Subscribe(0, false)
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	o := hub.Role("gateway")
	for range 50 {
		o.Emit(core.Now{}, 0, core.Emit{Name: "e"})
	}
	rec, lost, err := sub.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w := &recorder{header: http.Header{}}
	st := &stream{w: w, rc: http.NewResponseController(w), hub: hub}
	if err := st.record(rec, lost); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(w.String(), "event: lost\ndata: {\"count\":34}\n\nid: 35\nevent: event\ndata: {") {
		t.Errorf("the stream reads\n%s", w.String())
	}
	// And the client understands it.
	srv := http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, w.String()) })}
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = srv.Serve(l) }()
	defer srv.Close()
	c := NewClient(socket)
	defer c.Close()
	var lostSum uint64
	n := 0
	if err := c.Events(t.Context(), EventOptions{}, func(ev Event) error { lostSum += ev.Lost; n++; return nil }); err != nil || lostSum != 34 || n != 2 {
		t.Errorf("the client counts %d lost in %d events, %v", lostSum, n, err)
	}
}

type recorder struct {
	bytes.Buffer
	header http.Header
}

func (r *recorder) Header() http.Header { return r.header }
func (r *recorder) WriteHeader(int)     {}
func (r *recorder) Flush()              {}

// TestEndWithFollowers: a daemon ends although somebody follows its events.
func TestEndWithFollowers(t *testing.T) {
	hub := observe.New(observe.Options{Self: "mag1"})
	defer hub.Close()
	hub.Role("gateway").Emit(core.Now{}, 0, core.Emit{Name: "e"})
	socket := filepath.Join(t.TempDir(), "s")
	s := New(Config{Socket: socket, Hub: hub})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	<-s.Ready()
	c := NewClient(socket)
	defer c.Close()
	followed := make(chan error, 1)
	first := make(chan struct{}, 1)
	go func() {
		followed <- c.Events(context.Background(), EventOptions{Backlog: 1}, func(Event) error { first <- struct{}{}; return nil })
	}()
	<-first
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("the server ends with %v", err)
	}
	if err := <-followed; err != nil {
		t.Errorf("the follower ends with %v", err)
	}
}

func TestSocket(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "deep", "s")
	_, _ = serve(t, Config{Socket: socket})
	st, err := os.Stat(socket)
	if err != nil || st.Mode().Perm() != 0o660 {
		t.Errorf("mode %v %v, want 0660", st.Mode(), err)
	}
	if err := New(Config{Socket: socket}).Listen(); err == nil || !strings.Contains(err.Error(), "another daemon listens there") {
		t.Errorf("a second daemon on the socket: %v", err)
	}
	// A file that is no socket is not removed.
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := New(Config{Socket: file}).Listen(); err == nil || !strings.Contains(err.Error(), "no socket is there") {
		t.Errorf("a file in the way: %v", err)
	}
	if b, _ := os.ReadFile(file); string(b) != "precious" {
		t.Error("the file in the way is gone")
	}
	// A socket that nobody listens on is.
	stale := filepath.Join(dir, "stale")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	c, _ := serve(t, Config{Socket: stale, Roles: []Role{{Name: "anchor", Commander: &machine{}}}})
	if err := c.Health(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestSocketRace: of daemons that start at once over a stale socket exactly one gets it, and can be reached.
func TestSocketRace(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	for round := range 20 {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		l.Close()
		var won []*Server
		var mu sync.Mutex
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				s := New(Config{Socket: socket})
				if err := s.Listen(); err == nil {
					mu.Lock()
					defer mu.Unlock()
					won = append(won, s)
				} else if !strings.Contains(err.Error(), "another daemon listens there") {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if len(won) != 1 {
			t.Fatalf("round %d: %d daemons have the socket", round, len(won))
		}
		c, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatalf("round %d: the one that has it cannot be reached: %v", round, err)
		}
		c.Close()
		won[0].Close()
		won[0].Close()
		if _, err := os.Stat(socket); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("round %d: a closed server leaves its socket: %v", round, err)
		}
	}
}

// TestClientsThatHang: connections that ask nothing are bounded, and the next one is served when one of them ends.
func TestClientsThatHang(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	_, _ = serve(t, Config{Socket: socket, Roles: []Role{{Name: "anchor", Commander: &machine{}}}})
	var hanging []net.Conn
	for range maxConns {
		c, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		hanging = append(hanging, c)
	}
	c := NewClient(socket)
	defer c.Close()
	soon, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := c.Health(soon); err == nil {
		t.Errorf("served beside %d that hang", maxConns)
	}
	for _, h := range hanging {
		h.Close()
	}
	if err := c.Health(t.Context()); err != nil {
		t.Errorf("when they are gone: %v", err)
	}
}

// TestRoleAfterListen: a machine that came up after the server listened is served.
func TestRoleAfterListen(t *testing.T) {
	s := New(Config{Socket: filepath.Join(t.TempDir(), "s")})
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	s.AddRole(Role{Name: "anchor", Commander: &machine{}})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	c := NewClient(s.cfg.Socket)
	defer c.Close()
	if st, err := c.Status(t.Context()); err != nil || len(st.Roles) != 1 {
		t.Errorf("status %+v, %v; want one role", st, err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestUnreachable: a client says what to do.
func TestUnreachable(t *testing.T) {
	dir := t.TempDir()
	if err := NewClient(filepath.Join(dir, "none")).Health(t.Context()); err == nil || !strings.Contains(err.Error(), `start one with "kedge run CONFIG"`) {
		t.Errorf("no socket: %v", err)
	}
	stale := filepath.Join(dir, "stale")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if err := NewClient(stale).Health(t.Context()); err == nil || !strings.Contains(err.Error(), "ended without cleaning up") {
		t.Errorf("a stale socket: %v", err)
	}
}

// TestPublic: the TCP listener serves metrics and health, and nothing that tells of hosts or changes anything.
func TestPublic(t *testing.T) {
	hub := observe.New(observe.Options{Self: "mag1"})
	defer hub.Close()
	cfg := gateway(&machine{})
	cfg.Hub, cfg.Gatherer, cfg.Metrics = hub, hub.Gatherer(), netip.MustParseAddrPort("127.0.0.1:0")
	_, s := serve(t, cfg)
	for path, want := range map[string]int{"/metrics": 200, "/healthz": 200, "/v1/status": 404, "/v1/bindings": 404, "/v1/attach": 404, "/v1/events": 404} {
		res, err := http.Get("http://" + s.MetricsAddr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("%s: %d, want %d", path, res.StatusCode, want)
		}
	}
	taken := New(Config{Socket: filepath.Join(t.TempDir(), "s"), Metrics: netip.MustParseAddrPort(s.MetricsAddr().String())})
	if err := taken.Listen(); err == nil || !strings.Contains(err.Error(), "api.metrics") {
		t.Errorf("a taken address: %v", err)
	}
	if _, err := os.Stat(taken.cfg.Socket); !errors.Is(err, os.ErrNotExist) {
		t.Error("the socket of a server that failed is left behind")
	}
}

// TestRawRequests: what is no HTTP, or too much of it, is refused.
func TestRawRequests(t *testing.T) {
	c, _ := serve(t, gateway(&machine{}))
	for _, x := range []struct{ name, request, want string }{
		{"no HTTP", "hello\r\n\r\n", "HTTP/1.1 400"},
		{"long header", "GET /v1/status HTTP/1.1\r\nHost: k\r\nX: " + strings.Repeat("a", 2*maxHeader) + "\r\n\r\n", "HTTP/1.1 431"},
		{"good", "GET /v1/status HTTP/1.1\r\nHost: k\r\n\r\n", "HTTP/1.1 200"},
	} {
		conn, err := net.Dial("unix", c.socket)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, x.request) // the server may hang up in between
		line, _ := bufio.NewReader(conn).ReadString('\n')
		conn.Close()
		if !strings.HasPrefix(line, x.want) {
			t.Errorf("%s: %q, want %s", x.name, line, x.want)
		}
	}
}

// TestJSON: the field names that scripts rely on.
func TestJSON(t *testing.T) {
	c, _ := serve(t, gateway(&machine{}))
	res, err := c.do(t.Context(), "GET", "/v1/bindings?limit=1", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var v map[string]any
	if err := json.NewDecoder(res.Body).Decode(&v); err != nil {
		t.Fatal(err)
	}
	b := v["bindings"].([]any)[0].(map[string]any)
	for _, k := range []string{"role", "id", "state", "ipv4", "families", "proxy_coa", "dialect", "lifetime_ns", "expires", "since", "sequence"} {
		if _, ok := b[k]; !ok {
			t.Errorf("no field %q in %v", k, b)
		}
	}
	if v["total"] != 2.0 {
		t.Errorf("total %v", v["total"])
	}
}
