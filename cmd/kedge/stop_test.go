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

// mobile is a node that obeys.
type mobile struct {
	stopped int
	links   []string
	fail    error
}

func (m *mobile) Command(_ context.Context, body any) (any, error) {
	switch c := body.(type) {
	case core.Stop:
		m.stopped++
		return nil, m.fail
	case core.Roam:
		if c.Link == "wlan9" {
			return nil, fmt.Errorf("%w: wlan9 has no care-of address", wire.InterfaceUnsupported)
		}
		m.links = append(m.links, c.Link)
		return nil, nil
	}
	return nil, fmt.Errorf("unexpected %T", body)
}

// control serves a daemon of one role; ended is closed when somebody stopped it.
func control(t *testing.T, role string, m api.Commander) (socket string, ended <-chan struct{}) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "n.sock")
	ctx, stop := context.WithCancel(t.Context())
	s := api.New(api.Config{Socket: socket, Roles: []api.Role{{Name: role, Commander: m}}, Stop: stop})
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer s.Close()
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { stop(); <-done })
	return socket, done
}

// TestStop: a node gives back what it has, others just end; the command comes back when that is done.
func TestStop(t *testing.T) {
	for _, c := range []struct {
		role    string
		fail    error
		stopped int
		code    int
		says    string
	}{
		{"node", nil, 1, 0, "stopped\n"},
		{"gateway", nil, 0, 0, "stopped\n"},
		{"node", fmt.Errorf("the home agent does not answer"), 1, 1, "the home agent does not answer"},
	} {
		m := &mobile{fail: c.fail}
		socket, ended := control(t, c.role, m)
		code, out, errs := kedge(t, "stop", "-s", socket)
		if code != c.code || !strings.Contains(out+errs, c.says) || m.stopped != c.stopped {
			t.Errorf("%s: %d %q, told %d times", c.role, code, out+errs, m.stopped)
		}
		<-ended // also when the deregistration failed
	}
	if code, _, errs := kedge(t, "stop", "-s", filepath.Join(t.TempDir(), "x.sock")); code != exitFailed || !strings.Contains(errs, "no daemon") {
		t.Errorf("%d %s", code, errs)
	}
	gateway, _, _ := daemonAt(t)
	if code, _, errs := kedge(t, "stop", "-s", gateway); code != exitFailed || !strings.Contains(errs, "send it SIGTERM") {
		t.Errorf("%d %s", code, errs)
	}
}

// TestRoam: a node prefers the link that it is told, and nobody else knows the command.
func TestRoam(t *testing.T) {
	m := &mobile{}
	socket, _ := control(t, "node", m)
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"roam", "wlan0", "-s", socket}, 0, ""},
		{[]string{"roam", "-s", socket}, 0, ""},
		{[]string{"roam", "wlan9", "-s", socket}, 1, "wlan9 has no care-of address"},
	} {
		if code, out, errs := kedge(t, c.args...); code != c.code || !strings.Contains(out+errs, c.says) {
			t.Errorf("%v: %d %q", c.args, code, out+errs)
		}
	}
	if strings.Join(m.links, ",") != "wlan0," {
		t.Errorf("%q", m.links)
	}
	gateway, _, _ := daemonAt(t)
	if code, _, errs := kedge(t, "roam", "wlan0", "-s", gateway); code != exitFailed || !strings.Contains(errs, "this daemon is no mobile node") {
		t.Errorf("%d %s", code, errs)
	}
}
