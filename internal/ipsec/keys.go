package ipsec

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"kedge/internal/ipsec/rfc4285"
	"kedge/internal/ipsec/secret"
)

// Keys is the key material of one pair of security associations, or of one RFC 4285 association (Shared).
type Keys struct {
	Suite   Suite
	In, Out Half
	Shared  secret.Key // of SuiteRFC4285 only
}

// SuiteRFC4285 is the suite name of a key file for an RFC 4285 association, whose one key serves both directions.
const SuiteRFC4285 Suite = "rfc4285-hmac-sha1"

// Half is the material of one direction. With AES-GCM, Encryption has the salt behind the key (RFC 4106 8.1).
type Half struct {
	Encryption, Integrity secret.Key
}

// check compares lengths with what the suite wants.
func (h Half) check(s Suite) error {
	enc, auth, gcm, err := s.parse()
	if err != nil {
		return err
	}
	want := enc.key
	if gcm {
		want += gcmSalt
	}
	if len(h.Encryption) != want {
		return fmt.Errorf("suite %s wants an encryption key of %d octets, not %d", s, want, len(h.Encryption))
	}
	if len(h.Integrity) != auth.key {
		return fmt.Errorf("suite %s wants an integrity key of %d octets, not %d", s, auth.key, len(h.Integrity))
	}
	return nil
}

// Swapped are the keys as the other side needs them.
func (k Keys) Swapped() Keys {
	k.In, k.Out = k.Out, k.In
	return k
}

// Check says what is wrong with keys from a key file: an unknown suite, AES-GCM (RFC 4106 2), a wrong length.
func (k Keys) Check() error {
	if k.Suite == SuiteRFC4285 {
		if len(k.Shared) != rfc4285.KeySize {
			return fmt.Errorf("suite %s wants a shared key of %d octets, not %d", k.Suite, rfc4285.KeySize, len(k.Shared))
		}
		return nil
	}
	if err := k.Suite.CheckStatic(); err != nil {
		return err
	}
	if err := k.In.check(k.Suite); err != nil {
		return fmt.Errorf("in: %w", err)
	}
	if err := k.Out.check(k.Suite); err != nil {
		return fmt.Errorf("out: %w", err)
	}
	return nil
}

// GenerateKeys makes new keys for one side; Swapped is the other side's. rand is crypto/rand.Reader but in tests.
func GenerateKeys(s Suite, rand io.Reader) (Keys, error) {
	k := Keys{Suite: s}
	make := func(n int) (key secret.Key, err error) {
		key = append(key, bytes.Repeat([]byte{0}, n)...)
		_, err = io.ReadFull(rand, key)
		return key, err
	}
	if s == SuiteRFC4285 {
		var err error
		k.Shared, err = make(rfc4285.KeySize)
		return k, err
	}
	if err := s.CheckStatic(); err != nil {
		return Keys{}, err
	}
	enc, auth, _, err := s.parse()
	for _, h := range []*Half{&k.In, &k.Out} {
		var e1, e2 error
		h.Encryption, e1 = make(enc.key)
		h.Integrity, e2 = make(auth.key)
		err = errors.Join(err, e1, e2)
	}
	if err != nil {
		return Keys{}, fmt.Errorf("no randomness for keys: %w", err)
	}
	return k, nil
}

// The key file: one "name value" a line, "#" begins a comment.
//
//	kedge-keys 1
//	suite aes128-sha256
//	in encryption 00112233445566778899aabbccddeeff
//	in integrity ...
//	out encryption ...
//	out integrity ...
const keyFileVersion = "kedge-keys 1"

// maxKeyFile is far more than any key file holds.
const maxKeyFile = 16 << 10

// MarshalFile is the text of a key file, key material in clear.
func (k Keys) MarshalFile() ([]byte, error) {
	if err := k.Check(); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\nsuite %s\n", keyFileVersion, k.Suite)
	for _, f := range k.fields() {
		if len(*f.key) > 0 {
			fmt.Fprintf(&b, "%s %s\n", f.name, f.key.Hex())
		}
	}
	return b.Bytes(), nil
}

type keyField struct {
	name string
	key  *secret.Key
}

func (k *Keys) fields() []keyField {
	return []keyField{
		{"in encryption", &k.In.Encryption}, {"in integrity", &k.In.Integrity},
		{"out encryption", &k.Out.Encryption}, {"out integrity", &k.Out.Integrity}, {"shared", &k.Shared},
	}
}

// ParseKeys reads the text of a key file. Errors name the line and never show what it holds.
func ParseKeys(text []byte) (Keys, error) {
	var k Keys
	if len(text) > maxKeyFile {
		return k, fmt.Errorf("this is no key file: longer than %d octets", maxKeyFile)
	}
	sc := bufio.NewScanner(bytes.NewReader(text))
	version, seen := false, map[string]bool{}
	for n := 1; sc.Scan(); n++ {
		line, _, _ := strings.Cut(sc.Text(), "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if !version {
			if strings.Join(words, " ") != keyFileVersion {
				return Keys{}, fmt.Errorf("line %d: want %q first", n, keyFileVersion)
			}
			version = true
			continue
		}
		name, value := strings.Join(words[:len(words)-1], " "), words[len(words)-1]
		if seen[name] {
			return Keys{}, fmt.Errorf("line %d: %q again", n, name)
		}
		if err := k.set(name, value); err != nil {
			return Keys{}, fmt.Errorf("line %d: %w", n, err)
		}
		seen[name] = true
	}
	if err := sc.Err(); err != nil {
		return Keys{}, err
	}
	if !version {
		return Keys{}, fmt.Errorf("empty: want %q first", keyFileVersion)
	}
	return k, k.Check()
}

// set takes one line. A name that is none may be a key in the wrong place, so it is not repeated.
func (k *Keys) set(name, value string) error {
	if name == "suite" {
		k.Suite = Suite(value)
		return nil
	}
	for _, f := range k.fields() {
		if f.name == name {
			b, err := hex.DecodeString(value)
			if err != nil {
				return fmt.Errorf("%s: not hexadecimal, or an odd number of digits", name)
			}
			*f.key = b
			return nil
		}
	}
	return errors.New("want one of: suite, in encryption, in integrity, out encryption, out integrity, shared")
}

// LoadKeys reads a key file. A file that others than its owner may read is refused.
func LoadKeys(path string) (Keys, error) {
	f, err := os.Open(path)
	if err != nil {
		return Keys{}, fmt.Errorf("key file: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return Keys{}, fmt.Errorf("key file: %w", err)
	}
	if !st.Mode().IsRegular() {
		return Keys{}, fmt.Errorf("key file %s: not a regular file", path)
	}
	if st.Mode().Perm()&0o077 != 0 {
		return Keys{}, fmt.Errorf("key file %s has mode %04o: others may read or write it; run: chmod 600 %s", path, st.Mode().Perm(), path)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return Keys{}, fmt.Errorf("key file %s: %w", path, err)
	}
	k, err := ParseKeys(text)
	if err != nil {
		return Keys{}, fmt.Errorf("key file %s: %w", path, err)
	}
	return k, nil
}

// WriteKeys writes a key file of mode 0600 that did not exist: keys are never overwritten.
func WriteKeys(path string, k Keys) error {
	text, err := k.MarshalFile()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("key file: %w", err)
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("key file %s: %w", path, errors.Join(err, os.Remove(path)))
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("key file %s: %w", path, err)
	}
	return errors.Join(dir.Sync(), dir.Close())
}
