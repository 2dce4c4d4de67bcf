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
	"strings"

	"kedge/internal/ipsec"
)

type keysCmd struct {
	Name  string `arg:"" help:"Name of the peer that shares the keys with this machine, as in security.peers."`
	Self  string `default:"anchor" help:"Name of this machine on the other side."`
	Suite string `enum:"aes128-sha256,aes256-sha256,aes256-sha384,aes256-sha512,null-sha256,aes128-sha1,rfc4285" default:"aes128-sha256" help:"${enum}."`
	Uses  string `enum:"signalling,all" default:"signalling" help:"What the keys are for: signalling, or all that ESP protects for a mobile node, each with keys of its own: return routability and prefix discovery, too."`
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
	File string   `json:"file"`
	More []string `json:"more,omitempty"` // files of what --uses all is for beside signalling
	Peer string   `json:"peer"`
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
	if c.Uses == "all" && suite == ipsec.SuiteRFC4285 {
		return usageError{errors.New("--uses all is of ESP: with rfc4285 nothing but registrations is protected")}
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return err
	}
	var made []string
	undo := func(err error) error {
		for _, f := range made {
			err = errors.Join(err, os.Remove(f)) // half of what fits together is of no use
		}
		return err
	}
	one := func(name string, suite ipsec.Suite) (spi uint32, here, there string, err error) {
		here, there = filepath.Join(c.Dir, name+".here"), filepath.Join(c.Dir, name+".there")
		keys, err := ipsec.GenerateKeys(suite, rand.Reader)
		if err != nil {
			return 0, "", "", err
		}
		for _, f := range []struct {
			file string
			keys ipsec.Keys
		}{{here, keys}, {there, keys.Swapped()}} {
			if err := ipsec.WriteKeys(f.file, f.keys); err != nil {
				if errors.Is(err, fs.ErrExist) {
					err = fmt.Errorf("%w: keys are never overwritten; give another name or --dir, or remove both files", err)
				}
				return 0, "", "", err
			}
			made = append(made, f.file)
		}
		spi, err = newSPI()
		return spi, here, there, err
	}
	spi, here, there, err := one(c.Name, suite)
	if err != nil {
		return undo(err)
	}
	pair := keyPair{Suite: c.Suite, Here: keySide{File: here}, There: keySide{File: there}}
	taken := func(file string) string { return filepath.Join("keys", filepath.Base(file)) } // where the other side has it
	if suite == ipsec.SuiteRFC4285 {
		pair.Here.Peer = fmt.Sprintf("{ name: %s, rfc4285: { spi: %#x, key-file: %s } }", c.Name, spi, here)
		pair.There.Peer = fmt.Sprintf("{ name: %s, rfc4285: { spi: %#x, key-file: %s } }", c.Self, spi, taken(there))
	} else {
		association := func(in, out uint32, suite ipsec.Suite, file string) string {
			return fmt.Sprintf("spi-in: %#x, spi-out: %#x, suite: %s, key-file: %s", in, out, suite, file)
		}
		h, t := association(spi, spi+1, suite, here), association(spi+1, spi, suite, taken(there))
		if c.Uses == "all" {
			for _, use := range []ipsec.Use{ipsec.ReturnRoutability, ipsec.PrefixDiscovery} {
				s := suite
				if use == ipsec.ReturnRoutability && s == "null-sha256" {
					s = "aes128-sha256" // it must be encrypted (RFC 3776 4.3)
				}
				spi, here, there, err := one(c.Name+"-"+use.String(), s)
				if err != nil {
					return undo(err)
				}
				h += fmt.Sprintf(", %s: { %s }", use, association(spi, spi+1, s, here))
				t += fmt.Sprintf(", %s: { %s }", use, association(spi+1, spi, s, taken(there)))
				pair.Here.More, pair.There.More = append(pair.Here.More, here), append(pair.There.More, there)
			}
		}
		pair.Here.Peer = fmt.Sprintf("{ name: %s, esp: { %s } }", c.Name, h)
		pair.There.Peer = fmt.Sprintf("{ name: %s, esp: { %s } }", c.Self, t)
	}
	if e.json {
		return e.print(pair)
	}
	_, err = fmt.Fprintf(e.stdout, `# In the config of this machine, with %s beside it:
security:
  peers:
    - %s

# In the config of %s, with %s: take it there by a safe way, then remove it here.
security:
  peers:
    - %s

# A peer that is a gateway or an anchor of PMIPv6 needs "addresses: [...]" too. A mobile node needs none.
`, pair.Here.files(), pair.Here.Peer, c.Name, pair.There.files(), pair.There.Peer)
	return err
}

// files names those of a side.
func (s keySide) files() string {
	if len(s.More) == 0 {
		return "the file " + s.File
	}
	return "the files " + strings.Join(append([]string{s.File}, s.More...), ", ")
}

// newSPI draws an index whose successor is the other direction's. Indexes below 256 are reserved (RFC 4303 2.1).
func newSPI() (uint32, error) {
	var b [4]byte
	if _, err := rand.Read(b[:]); err != nil {
		return 0, fmt.Errorf("no randomness: %w", err)
	}
	return binary.BigEndian.Uint32(b[:])&0x7ffffffe | 0x1000, nil
}
