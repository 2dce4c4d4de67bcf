package main

import (
	"bytes"
	"context"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kedge/internal/api"
	"kedge/internal/core"
)

// switcher is an anchor that sends its nodes away as it is told, and is asked for its status.
type switcher struct{ on bool }

func (s *switcher) Command(_ context.Context, body any) (any, error) {
	switch c := body.(type) {
	case core.Switch:
		s.on = !c.Stop && (s.on || !c.Show)
		return core.Switched{On: s.on, All: s.on && c.ID == "", Nodes: 3, Told: c.Rate, Deaf: 1, Unprotected: len(c.To), Gone: int(c.Within / time.Second)}, nil
	}
	return nil, context.Canceled
}

func TestSwitchCommand(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "ha1.sock")
	s := api.New(api.Config{Socket: socket, Roles: []api.Role{{Name: "anchor", Commander: &switcher{}}}})
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"switch", "--show", "-s", socket}, 0, "no node is being sent to another home agent\n"},
		{[]string{"switch", "--in", "10s", "--rate", "2", "-s", socket}, 0, "3 nodes to go, 2 of them told, 10 gone\n1 of them do not know"},
		{[]string{"switch", "laptop@example.net", "--to", "2001:db8::2,2001:db8::3", "-s", socket}, 0, "2 more were not told: without ESP"},
		{[]string{"switch", "-s", socket}, 0, "until `kedge switch --stop`"},
		{[]string{"-o", "json", "switch", "--show", "-s", socket}, 0, "\"nodes\": 3"},
		{[]string{"switch", "--stop", "-s", socket}, 0, "no node is being sent"},
		{[]string{"switch", "--to", "there", "-s", socket}, 1, "want IPv6 addresses"},
		{[]string{"switch", "--stop", "--show", "-s", socket}, 1, "want one of them"},
	} {
		code, stdout, stderr := kedge(t, c.args...)
		if code != c.code || !strings.Contains(stdout+stderr, c.says) {
			t.Errorf("%v: %d %q", c.args, code, stdout+stderr)
		}
	}
}

// TestHomeAgentsInStatus reads as an operator sees it.
func TestHomeAgentsInStatus(t *testing.T) {
	var b bytes.Buffer
	err := writeHome(&b, &core.Status{Switching: &core.Switched{On: true, Nodes: 1}, HomeAgents: []core.HomeAgentStatus{
		{LinkLocal: netip.MustParseAddr("fe80::a"), Addresses: []netip.Addr{netip.MustParseAddr("2001:db8::a")}, Preference: 9, MobileRouters: true, Left: 1799 * time.Second}}})
	if out := strings.Join(strings.Fields(b.String()), " "); err != nil || !strings.Contains(out, "fe80::a 2001:db8::a 9 yes in 29m59s") || !strings.Contains(out, "1 node to go") {
		t.Errorf("%s%v", b.String(), err)
	}
}
