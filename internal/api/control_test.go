package api

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"kedge/internal/core"
	"kedge/wire"
)

// node obeys Stop and Roam.
type node struct {
	stops int
	fail  error
	link  *string
}

func (n *node) Command(ctx context.Context, body any) (any, error) {
	switch c := body.(type) {
	case core.Stop:
		n.stops++
		return nil, n.fail
	case core.Roam:
		if c.Link == "wlan9" {
			return nil, fmt.Errorf("%w: wlan9", wire.InterfaceUnsupported)
		}
		n.link = &c.Link
		return nil, nil
	}
	return core.Status{}, nil
}

// TestStop: a node is told to deregister before the daemon ends, and it ends whatever the node says; without a way to end, 409.
func TestStop(t *testing.T) {
	for _, fail := range []error{nil, errors.New("no answer")} {
		n := &node{fail: fail}
		ended := false
		c, _ := serve(t, Config{Roles: []Role{{Name: "node", Commander: n}}, Stop: func() { ended = true }})
		err := c.Stop(t.Context())
		if (err != nil) != (fail != nil) || n.stops != 1 || !ended {
			t.Errorf("%v: %v, told %d times, ended %v", fail, err, n.stops, ended)
		}
	}
	c, _ := serve(t, Config{Roles: []Role{{Name: "node", Commander: &node{}}}})
	var e *Error
	if err := c.Stop(t.Context()); !errors.As(err, &e) || e.Status != 409 {
		t.Errorf("%v", err)
	}
}

// TestRoam: the link goes to the node, and a refusal comes back with its reason.
func TestRoam(t *testing.T) {
	n := &node{}
	c, _ := serve(t, Config{Roles: []Role{{Name: "node", Commander: n}}})
	if err := c.Roam(t.Context(), "wlan0"); err != nil || n.link == nil || *n.link != "wlan0" {
		t.Errorf("%v %v", err, n.link)
	}
	if err := c.Roam(t.Context(), ""); err != nil || *n.link != "" {
		t.Errorf("%v %q", err, *n.link)
	}
	var e *Error
	if err := c.Roam(t.Context(), "wlan9"); !errors.As(err, &e) || e.Reason != string(wire.InterfaceUnsupported) {
		t.Errorf("%v", err)
	}
	if res, err := c.do(t.Context(), "POST", "/v1/roam", []byte(`{"lnk": "wlan0"}`)); !errors.As(err, &e) || e.Status != 400 {
		t.Errorf("%v %v", res, err)
	}
	g, _ := serve(t, gateway(&machine{}))
	if err := g.Roam(t.Context(), "wlan0"); !errors.As(err, &e) || e.Status != 409 {
		t.Errorf("%v", err)
	}
}

// TestSecurity: the state of security associations is in the status, and nothing that is a key.
func TestSecurity(t *testing.T) {
	c, _ := serve(t, Config{Security: func() []Association {
		return []Association{{Peer: "laptop", Protects: "signalling", Direction: "in", SPI: 0x101, Suite: "aes128-sha256", Sequence: 7}}
	}})
	st, err := c.Status(t.Context())
	if err != nil || len(st.Security) != 1 || st.Security[0].SPI != 0x101 {
		t.Errorf("%+v %v", st, err)
	}
}

// TestEnded: the socket is taken until the daemon lets go of it, not only until it stops answering.
func TestEnded(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "n.sock")
	s := New(Config{Socket: socket})
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Run(ctx); err != nil {
		t.Fatal(err)
	}
	c := NewClient(socket)
	defer c.Close()
	if err := c.Ended(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("while it clears up: %v", err)
	}
	if err := New(Config{Socket: socket}).Listen(); err == nil || !strings.Contains(err.Error(), "another daemon") {
		t.Errorf("a second daemon starts before the first one is gone: %v", err)
	}
	s.Close()
	if err := c.Ended(t.Context()); err != nil {
		t.Errorf("it has ended: %v", err)
	}
	next := New(Config{Socket: socket})
	if err := next.Listen(); err != nil {
		t.Errorf("the next one: %v", err)
	}
	next.Close()
	if err := NewClient(filepath.Join(t.TempDir(), "never.sock")).Ended(t.Context()); err != nil {
		t.Errorf("none ever was there: %v", err)
	}
}
