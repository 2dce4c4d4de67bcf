package api

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"kedge/internal/core"
	"kedge/wire"
)

// anchorOf ends sessions of alice.
type anchorOf struct{}

func (anchorOf) Command(_ context.Context, body any) (any, error) {
	switch c := body.(type) {
	case core.Revoke:
		if c.ID == "alice@example.net" {
			return core.Revoked{Sessions: 2, Told: 1}, nil
		}
		return nil, fmt.Errorf("%w: %q has no session here", wire.UnknownHost, c.ID)
	}
	return nil, fmt.Errorf("unexpected %T", body)
}

func TestRevoke(t *testing.T) {
	c, _ := serve(t, Config{Roles: []Role{{Name: "anchor", Commander: anchorOf{}}}})
	out, err := c.Revoke(t.Context(), "alice@example.net")
	if err != nil || *out != (core.Revoked{Sessions: 2, Told: 1}) {
		t.Errorf("%+v %v", out, err)
	}
	g, _ := serve(t, gateway(&machine{}))
	for _, x := range []struct {
		c      *Client
		id     string
		status int
		words  string
		reason wire.Reason
	}{
		{c, "bob@example.net", 422, `unknown-host: "bob@example.net" has no session here`, wire.UnknownHost},
		{c, "", 400, `id is missing: send {"id": "alice@example.net"}`, ""},
		{g, "alice@example.net", 409, "this daemon is no anchor: ask the anchor that has the session", ""},
	} {
		_, err := x.c.Revoke(t.Context(), x.id)
		var e *Error
		if !errors.As(err, &e) || e.Status != x.status || e.Error() != x.words || e.Reason != string(x.reason) {
			t.Errorf("%q: %v", x.id, err)
		}
	}
	if _, err := c.do(t.Context(), "POST", "/v1/revoke", []byte(`{"host":"x"}`)); err == nil {
		t.Error("an unknown field is accepted")
	}
}
