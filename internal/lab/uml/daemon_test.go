package uml

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kedge/internal/api"
	"kedge/internal/core"
	"kedge/internal/ipsec"
	"kedge/internal/system/netns"
)

// log is what a process has written.
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

var serial atomic.Uint64

// daemon is a whole "kedge run" in a namespace.
type daemon struct {
	*api.Client
	s *site
}

// daemon starts one in edge.
func (s *site) daemon(dir, name, text string) *daemon {
	s.Helper()
	return s.daemonIn(s.edge, dir, name, text)
}

// daemonIn starts one in a namespace, with key files in dir, and waits until it answers.
func (s *site) daemonIn(ns *netns.NS, dir, name, text string) *daemon {
	s.Helper()
	// What a daemon leaves in the kernel has its name, and others may run on this machine.
	name = fmt.Sprintf("%s-uml%d-%d", name, os.Getpid(), serial.Add(1))
	file, socket := filepath.Join(dir, name+".yaml"), filepath.Join(dir, name+".sock")
	text = fmt.Sprintf("version: 1\nname: %s\napi: { socket: %s }\nstore: { path: %s/%s.db }\n%s", name, socket, dir, name, text)
	netns.Must(s, os.WriteFile(file, []byte(text), 0o600))
	said := &log{}
	c := exec.Command(kedge, "run", file)
	c.Stderr = said
	netns.Must(s, ns.StartChild(c))
	d := &daemon{api.NewClient(socket), s}
	s.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := d.Stop(ctx); err != nil {
			_ = c.Process.Kill()
		}
		_ = c.Wait()
		d.Close()
		if s.Failed() {
			s.Logf("log of %s:\n%s", name, said)
		}
	})
	s.until(func() error { return d.Health(s.Context()) })
	return d
}

// until waits for a condition; the error says what is missing.
func (s *site) until(cond func() error) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), patience/3)
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
			s.Fatal(err)
		}
	}
}

// bound waits for a binding in a state at a care-of address.
func (d *daemon) bound(state string, careOf netip.Addr) (found core.Binding) {
	d.s.Helper()
	d.s.until(func() error {
		list, err := d.Bindings(d.s.Context(), "", 0)
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

// association is what came, or went, by the index.
func (d *daemon) association(spi uint32) api.Association {
	d.s.Helper()
	st, err := d.Status(d.s.Context())
	netns.Must(d.s, err)
	for _, a := range st.Security {
		if a.SPI == spi {
			return a
		}
	}
	d.s.Fatalf("no association %#x in %+v", spi, st.Security)
	return api.Association{}
}

// keyed makes keys, writes the file for our side, and gives the lines that make an association with this kernel's xfrm.
type keyed struct {
	keys ipsec.Keys
	File string
}

func newKeys(t *testing.T, dir, name string, suite ipsec.Suite) keyed {
	t.Helper()
	k, err := ipsec.GenerateKeys(suite, rand.Reader)
	netns.Must(t, err)
	file := filepath.Join(dir, name)
	netns.Must(t, ipsec.WriteKeys(file, k))
	return keyed{k, file}
}

// algorithms are the suite as ip-xfrm(8) has it, with the keys of what we get (in) or send.
func (k keyed) algorithms(in bool) string {
	h := k.keys.Out
	if in {
		h = k.keys.In
	}
	encryption, integrity, _ := strings.Cut(string(k.keys.Suite), "-")
	bits := map[string]int{"sha1": 96, "sha256": 128, "sha384": 192, "sha512": 256}[integrity]
	enc := "enc cbc(aes) 0x" + h.Encryption.Hex()
	if encryption == "null" {
		enc = `enc ecb(cipher_null) ""`
	}
	return fmt.Sprintf("%s auth-trunc hmac(%s) 0x%s %d", enc, integrity, h.Integrity.Hex(), bits)
}
