package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"

	"kedge/internal/core"
	"kedge/internal/observe"
	"kedge/wire"
)

// Role is one machine of the daemon.
type Role struct {
	Name      string // anchor, gateway, node
	Commander Commander
	// Counters reads what sessions have carried; nil: nobody counts.
	Counters func(ids []core.ID, into []core.Counter) error
}

// Config of a Server.
type Config struct {
	Socket   string
	Metrics  netip.AddrPort // invalid: no TCP listener
	Self     string
	Version  string
	File     string // of the config
	Started  time.Time
	Warnings []Warning
	Roles    []Role
	Hub      *observe.Hub
	Gatherer prometheus.Gatherer // nil: no metrics
	Stop     func()              // ends the daemon; nil: it cannot be stopped from here
	// Security is the state of what protects signalling; nil: nothing does.
	Security func() []Association
	// Dataplane is the state of forwarding, one entry a role; nil: there is none.
	Dataplane func() []Dataplane
}

// Server serves the API. Listen, then Run.
type Server struct {
	cfg       Config
	lock      *os.File
	unix, tcp net.Listener
	ready     chan struct{}
}

// New makes a server; it does not listen yet.
func New(cfg Config) *Server { return &Server{cfg: cfg, ready: make(chan struct{})} }

// Ready is closed when the server listens.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// MetricsAddr is where the TCP listener is, once it is there: port 0 in the config takes any.
func (s *Server) MetricsAddr() net.Addr {
	if s.tcp == nil {
		return nil
	}
	return s.tcp.Addr()
}

// Listen opens the socket, so that a daemon fails before it touches the network if it cannot be controlled. A socket
// file that nobody listens on is replaced.
func (s *Server) Listen() error {
	l, err := s.listenUnix()
	if err != nil {
		s.Close()
		return err
	}
	s.unix = netutil.LimitListener(l, maxConns)
	if s.cfg.Metrics.IsValid() {
		t, err := net.Listen("tcp", s.cfg.Metrics.String())
		if err != nil {
			s.Close()
			return fmt.Errorf("metrics: %w: free the address, or write another in api.metrics", err)
		}
		s.tcp = netutil.LimitListener(t, maxMetricsConns)
	}
	close(s.ready)
	return nil
}

// Run serves until ctx ends, which is no error. It listens, if Listen was not called before; if it was, the socket stays taken
// until Close.
func (s *Server) Run(ctx context.Context) error {
	defer s.hangUp()
	if s.unix == nil {
		if err := s.Listen(); err != nil {
			return err
		}
		defer s.Close()
	}
	servers := []*http.Server{s.server(ctx, s.Handler())}
	listeners := []net.Listener{s.unix}
	if s.tcp != nil {
		servers, listeners = append(servers, s.server(ctx, s.public())), append(listeners, s.tcp)
	}
	failed := make(chan error, len(servers))
	for i, srv := range servers {
		go func() { failed <- srv.Serve(listeners[i]) }()
	}
	var err error
	open := len(servers)
	select {
	case <-ctx.Done():
	case err = <-failed:
		open--
	}
	// Answers under way are finished; event streams end because their context does.
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	for _, srv := range servers {
		if srv.Shutdown(grace) != nil {
			srv.Close()
		}
	}
	for range open {
		<-failed
	}
	if err != nil {
		return fmt.Errorf("api: %w", err)
	}
	return nil
}

func (s *Server) server(ctx context.Context, h http.Handler) *http.Server {
	return &http.Server{Handler: h, ReadHeaderTimeout: headerTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeader, BaseContext: func(net.Listener) context.Context { return ctx }}
}

// Handler is the whole API.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	s.add(mux, "GET", "/v1/status", s.status)
	s.add(mux, "GET", "/v1/bindings", s.bindings)
	s.add(mux, "GET", "/v1/explain/{id...}", s.explain)
	s.add(mux, "GET", "/v1/events", s.events)
	s.add(mux, "POST", "/v1/attach", s.attach)
	s.add(mux, "POST", "/v1/detach", s.detach)
	s.add(mux, "POST", "/v1/revoke", s.revoke)
	s.add(mux, "POST", "/v1/switch", s.switchNodes)
	s.add(mux, "POST", "/v1/roam", s.roam)
	s.add(mux, "POST", "/v1/stop", s.stop)
	s.addPublic(mux)
	return mux
}

// public is what the TCP listener serves.
func (s *Server) public() http.Handler {
	mux := http.NewServeMux()
	s.addPublic(mux)
	return mux
}

func (s *Server) addPublic(mux *http.ServeMux) {
	if s.cfg.Gatherer != nil {
		h := promhttp.HandlerFor(s.cfg.Gatherer, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 2 * commandTimeout})
		s.add(mux, "GET", "/metrics", func(w http.ResponseWriter, r *http.Request) error { h.ServeHTTP(w, r); return nil })
	}
	s.add(mux, "GET", "/healthz", s.health)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fail(w, &Error{Status: http.StatusNotFound, Message: "nothing is at " + r.URL.Path, Want: "see /v1/status"})
	})
}

// add serves a path by one method, and says so to others.
func (s *Server) add(mux *http.ServeMux, method, path string, h func(http.ResponseWriter, *http.Request) error) {
	mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != method && (method != "GET" || r.Method != "HEAD") {
			w.Header().Set("Allow", method)
			fail(w, &Error{Status: http.StatusMethodNotAllowed, Message: r.Method + " is not for " + r.URL.Path, Want: "use " + method})
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		if err := h(w, r); err != nil {
			fail(w, err)
		}
	})
}

// fail answers with an error.
func fail(w http.ResponseWriter, err error) {
	e := &Error{Status: http.StatusUnprocessableEntity, Message: err.Error()}
	var own *Error
	var big *http.MaxBytesError
	var reason wire.Reason
	switch {
	case errors.As(err, &own):
		e = own
	case errors.As(err, &big):
		e.Status, e.Want = http.StatusRequestEntityTooLarge, fmt.Sprintf("send at most %d octets", big.Limit)
	case errors.Is(err, context.DeadlineExceeded):
		e = &Error{Status: http.StatusGatewayTimeout, Message: "the machine does not answer", Want: "see the log"}
	case errors.Is(err, context.Canceled):
		e = &Error{Status: http.StatusServiceUnavailable, Message: "the daemon ends"}
	case errors.As(err, &reason):
		e.Reason = string(reason)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(e.Status)
	_ = json.NewEncoder(w).Encode(e) // the client is gone if this fails
}

func answer(w http.ResponseWriter, body any) error {
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(body) // the client is gone if this fails
	return nil
}

// ask puts a command to one role and expects an answer of type T.
func ask[T any](ctx context.Context, role Role, body any) (T, error) {
	var zero T
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	v, err := role.Commander.Command(ctx, body)
	if err != nil {
		return zero, err
	}
	switch v := v.(type) {
	case T:
		return v, nil
	case *T:
		return *v, nil
	}
	return zero, &Error{Status: http.StatusInternalServerError, Message: fmt.Sprintf("the %s answers %T to %T", role.Name, v, body)}
}

func (s *Server) status(w http.ResponseWriter, r *http.Request) error {
	out := Status{Self: s.cfg.Self, Version: s.cfg.Version, Config: s.cfg.File, Started: s.cfg.Started, Warnings: s.cfg.Warnings, Roles: []core.Status{}}
	if s.cfg.Security != nil {
		out.Security = s.cfg.Security()
	}
	if s.cfg.Dataplane != nil {
		out.Dataplane = s.cfg.Dataplane()
	}
	for _, role := range s.cfg.Roles {
		st, err := ask[core.Status](r.Context(), role, core.GetStatus{})
		if err != nil {
			return err
		}
		if st.Role == "" {
			st.Role = role.Name
		}
		out.Roles = append(out.Roles, st)
	}
	return answer(w, out)
}

func (s *Server) bindings(w http.ResponseWriter, r *http.Request) error {
	limit, err := number(r, "limit", defaultLimit, maxBacklog)
	if err != nil {
		return err
	}
	out := Bindings{Bindings: []Binding{}}
	for _, role := range s.cfg.Roles {
		list, err := ask[[]core.Binding](r.Context(), role, core.GetBindings{Filter: r.URL.Query().Get("filter")})
		if err != nil {
			return err
		}
		out.Total += len(list)
		out.Bindings = append(out.Bindings, role.bindings(list[:min(len(list), limit-len(out.Bindings))])...)
	}
	return answer(w, out)
}

// bindings adds to the bindings of a role what they have carried.
func (r *Role) bindings(list []core.Binding) []Binding {
	out := make([]Binding, len(list))
	ids := make([]core.ID, len(list))
	for i, b := range list {
		out[i], ids[i] = Binding{Role: r.Name, Binding: b}, b.Session
	}
	into := make([]core.Counter, len(list))
	if r.Counters == nil || r.Counters(ids, into) != nil {
		return out
	}
	for i, c := range into {
		if ids[i] != 0 {
			out[i].Traffic = &Traffic{PacketsIn: c.PacketsIn, OctetsIn: c.OctetsIn, PacketsOut: c.PacketsOut, OctetsOut: c.OctetsOut}
		}
	}
	return out
}

func (s *Server) explain(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	if id == "" {
		return &Error{Status: http.StatusBadRequest, Message: "no id is given", Want: "name a host as in /v1/explain/alice@example.net"}
	}
	out := []Explanation{}
	for _, role := range s.cfg.Roles {
		e, err := ask[core.Explanation](r.Context(), role, core.Explain{ID: id})
		if err != nil {
			return err
		}
		if e.Profile != "" || len(e.Bindings) > 0 || len(e.History) > 0 {
			x := Explanation{Role: role.Name, Explanation: e}
			for _, b := range role.bindings(e.Bindings) {
				x.Traffic = append(x.Traffic, b.Traffic)
			}
			out = append(out, x)
		}
	}
	if len(out) == 0 {
		return &Error{Status: http.StatusNotFound, Message: fmt.Sprintf("nothing is known about %q", id), Want: "the bindings have the ids that are known, the log has messages that were refused"}
	}
	return answer(w, out)
}

func (s *Server) attach(w http.ResponseWriter, r *http.Request) error {
	var body core.Attach
	return s.toGateway(w, r, &body, func() (any, error) {
		if body.Previous != "" {
			if _, err := netip.ParseAddr(body.Previous); err != nil {
				return nil, &Error{Status: http.StatusBadRequest, Message: fmt.Sprintf("previous %q is no address", body.Previous), Want: "send the address of the former gateway"}
			}
		}
		return body, required(body.If, body.MAC)
	})
}

func (s *Server) detach(w http.ResponseWriter, r *http.Request) error {
	var body core.Detach
	return s.toGateway(w, r, &body, func() (any, error) { return body, required(body.If, body.MAC) })
}

func (s *Server) revoke(w http.ResponseWriter, r *http.Request) error {
	var body core.Revoke
	if err := read(r, &body); err != nil {
		return err
	}
	if body.ID == "" {
		return &Error{Status: http.StatusBadRequest, Message: "id is missing", Want: `send {"id": "alice@example.net"}`}
	}
	for _, role := range s.cfg.Roles {
		if role.Name == "anchor" {
			out, err := ask[core.Revoked](r.Context(), role, body)
			if err != nil {
				return err
			}
			return answer(w, out)
		}
	}
	return &Error{Status: http.StatusConflict, Message: "this daemon is no anchor", Want: "ask the anchor that has the session"}
}

func (s *Server) switchNodes(w http.ResponseWriter, r *http.Request) error {
	var body core.Switch
	if err := read(r, &body); err != nil {
		return err
	}
	for _, role := range s.cfg.Roles {
		if role.Name == "anchor" {
			out, err := ask[core.Switched](r.Context(), role, body)
			if err != nil {
				return err
			}
			return answer(w, out)
		}
	}
	return &Error{Status: http.StatusConflict, Message: "this daemon is no anchor", Want: "ask the home agent that serves the nodes"}
}

func required(ifname string, mac core.MAC) error {
	if ifname == "" || mac == (core.MAC{}) {
		return &Error{Status: http.StatusBadRequest, Message: "interface or mac is missing", Want: `send {"interface": "acc0", "mac": "02:00:00:00:00:0a"}`}
	}
	return nil
}

// read reads a command strictly.
func read(r *http.Request, into any) error {
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		if big := (*http.MaxBytesError)(nil); errors.As(err, &big) {
			return err
		}
		return &Error{Status: http.StatusBadRequest, Message: "the body cannot be read: " + err.Error(), Want: "send one JSON object"}
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return &Error{Status: http.StatusBadRequest, Message: "something follows the JSON object", Want: "send one object"}
	}
	return nil
}

// toGateway reads a command and puts it to the gateway.
func (s *Server) toGateway(w http.ResponseWriter, r *http.Request, into any, command func() (any, error)) error {
	if err := read(r, into); err != nil {
		return err
	}
	body, err := command()
	if err != nil {
		return err
	}
	for _, role := range s.cfg.Roles {
		if role.Name != "gateway" {
			continue
		}
		ctx, cancel := context.WithTimeout(r.Context(), commandTimeout)
		defer cancel()
		if _, err := role.Commander.Command(ctx, body); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	return &Error{Status: http.StatusConflict, Message: "this daemon is no gateway", Want: "ask the gateway of the access link"}
}

func (s *Server) health(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), time.Second)
	defer cancel()
	for _, role := range s.cfg.Roles {
		if _, err := role.Commander.Command(ctx, core.GetStatus{}); err != nil {
			return &Error{Status: http.StatusServiceUnavailable, Message: fmt.Sprintf("the %s does not answer: %v", role.Name, err), Want: "see the log"}
		}
	}
	w.Header().Set("Content-Type", "text/plain")
	_, _ = io.WriteString(w, "ok\n")
	return nil
}

// number reads a query parameter.
func number(r *http.Request, name string, def, most int) (int, error) {
	v := r.URL.Query().Get(name)
	if v == "" {
		return def, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 0 || n > most {
		return 0, &Error{Status: http.StatusBadRequest, Message: fmt.Sprintf("%s %q is no number of things", name, v), Want: fmt.Sprintf("send 0 to %d", most)}
	}
	return n, nil
}

// flag reads a query parameter that is true or false.
func flag(r *http.Request, name string, def bool) (bool, error) {
	v := r.URL.Query().Get(name)
	if v == "" {
		return def, nil
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		return false, &Error{Status: http.StatusBadRequest, Message: fmt.Sprintf("%s %q is neither true nor false", name, v), Want: "send true or false"}
	}
	return b, nil
}
