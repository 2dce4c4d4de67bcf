package uml

import (
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"kedge/internal/api"
	"kedge/internal/ipsec"
	"kedge/internal/lab/daemontest"
	"kedge/internal/system/netns"
)

var serial atomic.Uint64

// daemon starts one in edge.
func (s *site) daemon(dir, name, text string) *daemontest.Daemon {
	s.Helper()
	return s.daemonIn(s.edge, dir, name, text)
}

// daemonIn starts one in a namespace, with key files in dir, and waits until it answers. It takes back what it has set when the test ends: the next
// one may have the same namespace.
func (s *site) daemonIn(ns *netns.NS, dir, name, text string) *daemontest.Daemon {
	s.Helper()
	// What a daemon leaves in the kernel has its name, and others may run on this machine.
	d := daemontest.Start(s.T, ns, exec.Command(kedge), dir, fmt.Sprintf("%s-uml%d-%d", name, os.Getpid(), serial.Add(1)), text)
	s.Cleanup(func() { _ = d.End(syscall.SIGINT) })
	s.until(func() error { return d.Health(s.Context()) })
	return d
}

// until waits for a condition; the error says what is missing.
func (s *site) until(cond func() error) {
	s.Helper()
	daemontest.Until(s.T, patience/3, cond)
}

// spi says whether an association is what comes, or goes, by an index.
func spi(n uint32) func(api.Association) bool {
	return func(a api.Association) bool { return a.SPI == n }
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
