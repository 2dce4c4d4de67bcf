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
	"net/url"
	"strconv"
	"strings"
	"syscall"

	"kedge/internal/core"
	"kedge/internal/observe"
)

// Client speaks with one daemon. It is safe for concurrent use.
type Client struct {
	socket string
	http   *http.Client
}

// NewClient makes a client for a unix socket; it connects when it is used.
func NewClient(socket string) *Client {
	tr := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
		MaxIdleConns: 4,
	}
	return &Client{socket: socket, http: &http.Client{Transport: tr}}
}

// Close frees idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status asks what the daemon is and how it does.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	return get[Status](ctx, c, "/v1/status")
}

// Bindings lists bindings whose id, address or prefix contains filter; limit 0 takes the server's default.
func (c *Client) Bindings(ctx context.Context, filter string, limit int) (*Bindings, error) {
	q := url.Values{"filter": {filter}}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	return get[Bindings](ctx, c, "/v1/bindings?"+q.Encode())
}

// Explain asks why the bindings of an id are as they are.
func (c *Client) Explain(ctx context.Context, id string) ([]Explanation, error) {
	e, err := get[[]Explanation](ctx, c, "/v1/explain/"+url.PathEscape(id))
	if err != nil {
		return nil, err
	}
	return *e, nil
}

// Attach tells a gateway of a host.
func (c *Client) Attach(ctx context.Context, a core.Attach) error {
	return c.post(ctx, "/v1/attach", a)
}

// Detach tells a gateway that a host left.
func (c *Client) Detach(ctx context.Context, d core.Detach) error {
	return c.post(ctx, "/v1/detach", d)
}

// Revoke has an anchor end the sessions of an identifier, address or prefix.
func (c *Client) Revoke(ctx context.Context, id string) (*core.Revoked, error) {
	b, err := json.Marshal(core.Revoke{ID: id})
	if err != nil {
		return nil, err
	}
	return fetch[core.Revoked](ctx, c, "POST", "/v1/revoke", b)
}

// Switch has an anchor send mobile nodes to other home agents, or says how far that is.
func (c *Client) Switch(ctx context.Context, s core.Switch) (*core.Switched, error) {
	b, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	return fetch[core.Switched](ctx, c, "POST", "/v1/switch", b)
}

// Roam tells a mobile node which link to prefer; "" = as configured.
func (c *Client) Roam(ctx context.Context, link string) error {
	return c.post(ctx, "/v1/roam", core.Roam{Link: link})
}

// Stop ends the daemon, after a mobile node has given back what it has. Ended says when nothing of it is left.
func (c *Client) Stop(ctx context.Context) error {
	return c.post(ctx, "/v1/stop", struct{}{})
}

// Metrics gives the Prometheus text.
func (c *Client) Metrics(ctx context.Context) (string, error) {
	res, err := c.do(ctx, "GET", "/metrics", nil)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return string(b), err
}

// Health is nil if every machine of the daemon answers.
func (c *Client) Health(ctx context.Context) error {
	res, err := c.do(ctx, "GET", "/healthz", nil)
	if err != nil {
		return err
	}
	return res.Body.Close()
}

// EventOptions say which events one wants.
type EventOptions struct {
	Backlog  int  // recent ones first
	Messages bool // signalling messages too
	Once     bool // end after the backlog
}

// Event is one record, or with Lost != 0 the news that so many were lost here.
type Event struct {
	Seq  uint64
	Lost uint64
	Line observe.Line
	Raw  []byte // the line as it came
}

// maxLine is the longest event that a client takes, in octets.
const maxLine = 1 << 20

// Events calls f for each event until it fails, ctx ends, or the daemon does.
func (c *Client) Events(ctx context.Context, o EventOptions, f func(Event) error) error {
	q := url.Values{"backlog": {strconv.Itoa(o.Backlog)}, "messages": {strconv.FormatBool(o.Messages)}, "follow": {strconv.FormatBool(!o.Once)}}
	res, err := c.do(ctx, "GET", "/v1/events?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	sc := bufio.NewScanner(res.Body)
	sc.Buffer(make([]byte, 0, 4096), maxLine)
	var ev Event
	var kind string
	for sc.Scan() {
		key, val, _ := bytes.Cut(sc.Bytes(), []byte(": "))
		switch string(key) {
		case "id":
			if ev.Seq, err = strconv.ParseUint(string(val), 10, 64); err != nil {
				return fmt.Errorf("events: id %q: %w", val, err)
			}
		case "event":
			kind = string(val)
		case "data":
			if kind == "lost" {
				var n struct{ Count uint64 }
				if err := json.Unmarshal(val, &n); err != nil {
					return fmt.Errorf("events: %w", err)
				}
				ev.Lost = n.Count
				break
			}
			ev.Raw = bytes.Clone(val)
			if err := json.Unmarshal(val, &ev.Line); err != nil {
				return fmt.Errorf("events: %w", err)
			}
		case "":
			if ev.Raw != nil || ev.Lost != 0 {
				if err := f(ev); err != nil {
					return err
				}
			}
			ev, kind = Event{}, ""
		}
	}
	if err := sc.Err(); err != nil && ctx.Err() == nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("events: %w", err)
	}
	return ctx.Err()
}

func (c *Client) post(ctx context.Context, path string, body any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return err
	}
	res, err := c.do(ctx, "POST", path, b)
	if err != nil {
		return err
	}
	return res.Body.Close()
}

func get[T any](ctx context.Context, c *Client, path string) (*T, error) {
	return fetch[T](ctx, c, "GET", path, nil)
}

// fetch makes a request and reads the answer.
func fetch[T any](ctx context.Context, c *Client, method, path string, body []byte) (*T, error) {
	res, err := c.do(ctx, method, path, body)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	var v T
	if err := json.NewDecoder(res.Body).Decode(&v); err != nil {
		return nil, fmt.Errorf("the answer to %s cannot be read: %w", path, err)
	}
	return &v, nil
}

// do makes a request; an answer that is no 2xx is an *Error.
func (c *Client) do(ctx context.Context, method, path string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://kedge"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	if res.StatusCode < 300 {
		return res, nil
	}
	defer res.Body.Close()
	e := &Error{Status: res.StatusCode}
	text, err := io.ReadAll(io.LimitReader(res.Body, maxBody))
	if err != nil || json.Unmarshal(text, e) != nil || e.Message == "" {
		e.Message = strings.TrimSpace(res.Status + " " + string(text))
	}
	return nil, e
}

// ErrNoDaemon is in the errors of requests that found nobody at the socket.
var ErrNoDaemon = errors.New("no daemon")

// unreachable says what to do when nobody answers.
func (c *Client) unreachable(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("no answer on %s: %w", c.socket, ctx.Err())
	case errors.Is(err, syscall.ENOENT):
		return fmt.Errorf("%w: there is no socket %s: start one with \"kedge run CONFIG\", or name its socket with --socket", ErrNoDaemon, c.socket)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w listens on %s: it ended without cleaning up: start it again with \"kedge run CONFIG\"; \"kedge stop\" then takes back what a mobile node has set", ErrNoDaemon, c.socket)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("you may not use %s: become root, or a member of the socket's group", c.socket)
	}
	return fmt.Errorf("%s: %w", c.socket, err)
}
