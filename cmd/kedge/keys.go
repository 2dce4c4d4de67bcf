package main

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"kedge/internal/ipsec"
)

type keysCmd struct {
	Name  string `arg:"" help:"Name of the peer that shares the keys with this machine, as in security.peers."`
	Self  string `default:"anchor" help:"Name of this machine on the other side."`
	Suite string `enum:"aes128-sha256,aes256-sha256,aes256-sha384,aes256-sha512,null-sha256,aes128-sha1,rfc4285" default:"aes128-sha256" help:"${enum}."`
	Dir   string `default:"keys" help:"Directory of the key files; it is made if it is not there."`
}

// keyPair is what kedge keys made; nothing of the keys themselves is in it.
type keyPair struct {
	Suite string  `json:"suite"`
	Here  keySide `json:"here"`
	There keySide `json:"there"`
}

// keySide is one end: a key file, and the item of security.peers that uses it.
type keySide struct {
	File string `json:"file"`
	Peer string `json:"peer"`
}

var peerName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`) // as package config has it

// Run makes keys.
func (c *keysCmd) Run(e *env) error {
	for _, n := range []string{c.Name, c.Self} {
		if !peerName.MatchString(n) {
			return usageError{fmt.Errorf("%q is no name: write up to 63 lower-case letters, digits and hyphens, as in laptop", n)}
		}
	}
	suite := ipsec.Suite(c.Suite)
	if c.Suite == "rfc4285" {
		suite = ipsec.SuiteRFC4285
	}
	keys, err := ipsec.GenerateKeys(suite, rand.Reader)
	if err != nil {
		return err
	}
	spi, err := newSPI()
	if err != nil {
		return err
	}
	pair := keyPair{Suite: c.Suite, Here: keySide{File: filepath.Join(c.Dir, c.Name+".here")}, There: keySide{File: filepath.Join(c.Dir, c.Name+".there")}}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return err
	}
	for _, f := range []struct {
		side *keySide
		keys ipsec.Keys
	}{{&pair.Here, keys}, {&pair.There, keys.Swapped()}} {
		if err := ipsec.WriteKeys(f.side.File, f.keys); err != nil {
			if errors.Is(err, fs.ErrExist) {
				err = fmt.Errorf("%w: keys are never overwritten; give another name or --dir, or remove both files", err)
			}
			if f.side == &pair.There {
				err = errors.Join(err, os.Remove(pair.Here.File)) // half a pair is of no use
			}
			return err
		}
	}
	there := filepath.Join("keys", c.Name+".there")
	if c.Suite == "rfc4285" {
		pair.Here.Peer = fmt.Sprintf("{ name: %s, rfc4285: { spi: %#x, key-file: %s } }", c.Name, spi, pair.Here.File)
		pair.There.Peer = fmt.Sprintf("{ name: %s, rfc4285: { spi: %#x, key-file: %s } }", c.Self, spi, there)
	} else {
		pair.Here.Peer = fmt.Sprintf("{ name: %s, esp: { spi-in: %#x, spi-out: %#x, suite: %s, key-file: %s } }", c.Name, spi, spi+1, c.Suite, pair.Here.File)
		pair.There.Peer = fmt.Sprintf("{ name: %s, esp: { spi-in: %#x, spi-out: %#x, suite: %s, key-file: %s } }", c.Self, spi+1, spi, c.Suite, there)
	}
	if e.json {
		return e.print(pair)
	}
	_, err = fmt.Fprintf(e.stdout, `# In the config of this machine, with the file %s beside it:
security:
  peers:
    - %s

# In the config of %s, with the file %s: take it there by a safe way, then remove it here.
security:
  peers:
    - %s

# A peer that is a gateway or an anchor of PMIPv6 needs "addresses: [...]" too. A mobile node needs none.
`, pair.Here.File, pair.Here.Peer, c.Name, pair.There.File, pair.There.Peer)
	return err
}

// newSPI draws an index whose successor is the other direction's. Indexes below 256 are reserved (RFC 4303 2.1).
func newSPI() (uint32, error) {
	var b [4]byte
	if _, err := rand.Read(b[:]); err != nil {
		return 0, fmt.Errorf("no randomness: %w", err)
	}
	return binary.BigEndian.Uint32(b[:])&0x7ffffffe | 0x1000, nil
}
