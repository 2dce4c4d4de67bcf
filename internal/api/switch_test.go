package api

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kedge/internal/core"
)

// switcher gives back what it was asked for.
type switcher struct{ got core.Switch }

func (s *switcher) Command(_ context.Context, body any) (any, error) {
	s.got = body.(core.Switch)
	if s.got.ID == "nobody" {
		return nil, errors.New("no node nobody is registered")
	}
	return core.Switched{On: true, Nodes: 2, Told: 1, To: s.got.To}, nil
}

func TestSwitch(t *testing.T) {
	same := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	m := &switcher{}
	c, _ := serve(t, Config{Roles: []Role{{Name: "anchor", Commander: m}}})
	ask := core.Switch{ID: "laptop@example.net", To: []netip.Addr{netip.MustParseAddr("2001:db8::2")}, Within: time.Minute, Rate: 3}
	out, err := c.Switch(t.Context(), ask)
	if err != nil || out.Nodes != 2 || len(out.To) != 1 {
		t.Errorf("%+v %v", out, err)
	}
	if d := cmp.Diff(ask, m.got, same); d != "" {
		t.Error(d)
	}
	if _, err := c.Switch(t.Context(), core.Switch{ID: "nobody"}); err == nil {
		t.Error("no error")
	}
	if _, err := c.do(t.Context(), "POST", "/v1/switch", []byte(`{"to":["x"]}`)); err == nil {
		t.Error("a word is taken for an address")
	}
	g, _ := serve(t, gateway(&machine{}))
	var e *Error
	if _, err := g.Switch(t.Context(), ask); !errors.As(err, &e) || e.Status != 409 {
		t.Errorf("a gateway: %v", err)
	}
}
