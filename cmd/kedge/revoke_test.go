package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"kedge/internal/api"
	"kedge/internal/core"
	"kedge/wire"
)

// revoker is an anchor with sessions of some hosts.
type revoker map[string]core.Revoked

func (a revoker) Command(_ context.Context, body any) (any, error) {
	c, ok := body.(core.Revoke)
	if !ok {
		return nil, fmt.Errorf("unexpected %T", body)
	}
	if out, ok := a[c.ID]; ok {
		return out, nil
	}
	return nil, fmt.Errorf("%w: %q has no session here", wire.UnknownHost, c.ID)
}

func TestRevoke(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "lma1.sock")
	s := api.New(api.Config{Socket: socket, Roles: []api.Role{{Name: "anchor", Commander: revoker{
		"alice@example.net": {Sessions: 1, Told: 1}, "2001:db8:1000::/64": {Sessions: 2}}}}})
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	gateway, _, _ := daemonAt(t)
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"revoke", "alice@example.net", "-s", socket}, 0, "1 session ended, 1 of the gateways told\n"},
		{[]string{"revoke", "2001:db8:1000::/64", "-s", socket}, 0, "2 sessions ended, 0 of the gateways told\n"},
		{[]string{"-o", "json", "revoke", "alice@example.net", "-s", socket}, 0, "\"sessions\": 1,\n  \"told\": 1"},
		{[]string{"revoke", "bob@example.net", "-s", socket}, 1, `"bob@example.net" has no session here`},
		{[]string{"revoke", "alice@example.net", "-s", gateway}, 1, "this daemon is no anchor: ask the anchor that has the session"},
		{[]string{"revoke"}, 2, "<id>"},
	} {
		code, stdout, stderr := kedge(t, c.args...)
		if code != c.code || !strings.Contains(stdout+stderr, c.says) {
			t.Errorf("%v: %d %q", c.args, code, stdout+stderr)
		}
	}
}
