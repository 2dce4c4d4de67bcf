// Package daemontest runs whole daemons in tests: processes of "kedge run" in network namespaces, which can be asked, killed and started again.
// It is for tests of the program from outside; scenarios with a topology are package lab's.
package daemontest

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"kedge/internal/api"
	"kedge/internal/core"
	"kedge/internal/system/netns"
)

// patience is for what a daemon does by itself: Bound, and its end. A node that is interrupted may wait 20 s for its home agent.
const patience = 30 * time.Second

// Daemon is a process and its control API.
type Daemon struct {
	*api.Client
	t     *testing.T
	cmd   *exec.Cmd
	log   log
	ended bool // somebody has waited for it
}

// Start starts a daemon named name in a namespace: cmd is the program, perhaps with others in front, without "run FILE". Socket, store and the
// config, which is text and what all have, are in dir. The test ends it by SIGTERM unless it has ended before. The kernel kills it when the
// test's process ends.
func Start(t *testing.T, ns *netns.NS, cmd *exec.Cmd, dir, name, text string) *Daemon {
	t.Helper()
	file, socket := filepath.Join(dir, name+".yaml"), filepath.Join(dir, name+".sock")
	text = fmt.Sprintf("version: 1\nname: %s\napi: { socket: %s }\nstore: { path: %s/%s.db }\n%s", name, socket, dir, name, text)
	netns.Must(t, os.WriteFile(file, []byte(text), 0o600))
	d := &Daemon{Client: api.NewClient(socket), t: t, cmd: cmd}
	cmd.Args, cmd.Stderr = append(cmd.Args, "run", file), &d.log
	netns.Must(t, ns.StartChild(cmd))
	t.Cleanup(func() {
		_ = d.End(syscall.SIGTERM)
		d.Close()
		if t.Failed() {
			t.Logf("log of %s:\n%s", name, d.Log())
		}
	})
	return d
}

// Log is what it has written.
func (d *Daemon) Log() string { return d.log.String() }

// End ends it by a signal, unless it has ended; the error says how it ended if not well.
func (d *Daemon) End(by syscall.Signal) error {
	if d.ended {
		return nil
	}
	_ = d.cmd.Process.Signal(by)
	return d.Wait()
}

// Kill ends it as a crash would.
func (d *Daemon) Kill() { _ = d.End(syscall.SIGKILL) }

// Wait waits for one that ends by itself.
func (d *Daemon) Wait() error {
	d.ended = true
	defer time.AfterFunc(patience, func() { _ = d.cmd.Process.Kill() }).Stop()
	return d.cmd.Wait()
}

// Until waits for a condition; the error says what is missing.
func Until(t *testing.T, within time.Duration, cond func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := cond()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("not within %s: %v", within, err)
		}
	}
}

// Bound waits for a binding in a state at a care-of address; the zero one: at whichever.
func (d *Daemon) Bound(state string, careOf netip.Addr) (found core.Binding) {
	d.t.Helper()
	Until(d.t, patience, func() error {
		list, err := d.Bindings(d.t.Context(), "", 0)
		if err != nil {
			return err
		}
		for _, b := range list.Bindings {
			if b.State == state && (!careOf.IsValid() || b.CareOf == careOf) {
				found = b.Binding
				return nil
			}
		}
		return fmt.Errorf("bindings %+v, want one %s at %v", list.Bindings, state, careOf)
	})
	return found
}

// Association is the first security association that one wants.
func (d *Daemon) Association(wanted func(api.Association) bool) api.Association {
	d.t.Helper()
	st, err := d.Status(d.t.Context())
	netns.Must(d.t, err)
	for _, a := range st.Security {
		if wanted(a) {
			return a
		}
	}
	d.t.Fatalf("no such association in %+v", st.Security)
	return api.Association{}
}

// log is what a process writes while others read it.
type log struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
