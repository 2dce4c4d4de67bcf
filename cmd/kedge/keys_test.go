package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kedge/internal/config"
	"kedge/internal/ipsec"
)

// keysIn makes a pair of key files and gives what was said about them.
func keysIn(t *testing.T, dir string, args ...string) keyPair {
	t.Helper()
	code, out, errs := kedge(t, append([]string{"-o", "json", "keys", "laptop", "--self", "ha1", "--dir", filepath.Join(dir, "keys")}, args...)...)
	var pair keyPair
	if err := json.Unmarshal([]byte(out), &pair); code != 0 || err != nil {
		t.Fatalf("%d %v %s%s", code, err, out, errs)
	}
	return pair
}

// keysNamed makes a pair for two names.
func keysNamed(t *testing.T, dir, name, self string) keyPair {
	t.Helper()
	code, out, errs := kedge(t, "-o", "json", "keys", name, "--self", self, "--dir", filepath.Join(dir, "keys"))
	var pair keyPair
	if err := json.Unmarshal([]byte(out), &pair); code != 0 || err != nil {
		t.Fatalf("%d %v %s%s", code, err, out, errs)
	}
	return pair
}

// TestKeys: both halves fit each other, nobody else may read them, nothing of them is shown, and the shown items are config.
func TestKeys(t *testing.T) {
	for _, suite := range append(ipsec.Suites(), "rfc4285") {
		dir := t.TempDir()
		if code, _, errs := kedge(t, "keys", "x", "--suite", suite, "--dir", filepath.Join(dir, "probe")); code != 0 {
			if !strings.Contains(errs, "--suite must be one of") {
				t.Errorf("%s: %s", suite, errs)
			}
			continue // the config does not offer it either
		}
		pair := keysIn(t, dir, "--suite", suite)
		for _, side := range []struct {
			file, peer, rest string
		}{
			{pair.Here.File, pair.Here.Peer, `anchor:
  addresses: ["2001:db8:a::1", 198.51.100.1]
  pools: [ { name: home, prefix: "2001:db8:2000::/48" } ]
  services: { dsmip6: {} }
  subscribers: { list: [ { id: laptop@example.net, families: [v6], hoa: "2001:db8:2000::5/64", peer: laptop } ] }
`},
			{pair.There.File, pair.There.Peer, `node:
  anchor: { name: ha1, addresses: ["2001:db8:a::1", 198.51.100.1] }
  home: { v6: "2001:db8:2000::5/64" }
  links: [ { match: eth0 } ]
`},
		} {
			st, err := os.Stat(side.file)
			if err != nil || st.Mode().Perm() != 0o600 {
				t.Fatalf("%s: %v %v", side.file, st, err)
			}
			file := filepath.Join(dir, "config.yaml")
			text := "version: 1\nname: a\nsecurity:\n  peers:\n    - " + side.peer + "\n" + side.rest
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			cfg, _, err := config.Load(file)
			if err != nil {
				t.Fatalf("%s: %v\n%s", suite, err, text)
			}
			peers, err := securityPeers(cfg)
			if err != nil || len(peers) != 1 {
				t.Fatalf("%s: %v", suite, err)
			}
			secret, err := os.ReadFile(side.file)
			if err != nil {
				t.Fatal(err)
			}
			shown, err := json.Marshal(pair)
			if err != nil {
				t.Fatal(err)
			}
			for _, line := range bytes.Split(secret, []byte("\n")) {
				if w := bytes.Fields(line); len(w) > 0 && len(w[len(w)-1]) >= 32 && bytes.Contains(shown, w[len(w)-1]) {
					t.Errorf("%s: key material is shown: %s", suite, shown)
				}
			}
		}
		here, err1 := ipsec.LoadKeys(pair.Here.File)
		there, err2 := ipsec.LoadKeys(pair.There.File)
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		same := func(a, b []byte) bool { return bytes.Equal(a, b) }
		if !same(here.In.Integrity, there.Out.Integrity) || !same(here.Out.Encryption, there.In.Encryption) || !same(here.Shared, there.Shared) {
			t.Errorf("%s: the halves do not fit", suite)
		}
	}
}

// TestKeysAreNeverOverwritten: a second pair of a name would cut the other side off.
func TestKeysAreNeverOverwritten(t *testing.T) {
	dir := t.TempDir()
	pair := keysIn(t, dir)
	before, err := os.ReadFile(pair.Here.File)
	if err != nil {
		t.Fatal(err)
	}
	again := func(says string) {
		t.Helper()
		code, _, errs := kedge(t, "keys", "laptop", "--dir", filepath.Join(dir, "keys"))
		if code != exitFailed || !strings.Contains(errs, says) {
			t.Errorf("%d %s", code, errs)
		}
	}
	again("keys are never overwritten")
	if after, err := os.ReadFile(pair.Here.File); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the first file changed: %v", err)
	}
	// Half a pair is of no use, so none is left.
	if err := os.Remove(pair.Here.File); err != nil {
		t.Fatal(err)
	}
	again("keys are never overwritten")
	if _, err := os.Stat(pair.Here.File); !os.IsNotExist(err) {
		t.Errorf("half a pair: %v", err)
	}
	for _, name := range []string{"../x", "A", "a b", ""} {
		if code, _, errs := kedge(t, "keys", name, "--dir", dir); code != exitUsage {
			t.Errorf("%q: %d %s", name, code, errs)
		}
	}
}

// TestWrongKeyFiles: what is wrong with a key file is told at the line that names it, with what to do, and without the key.
func TestWrongKeyFiles(t *testing.T) {
	dir := t.TempDir()
	pair := keysIn(t, dir)
	good, err := os.ReadFile(pair.Here.File)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "ha1.yaml")
	text := `version: 1
name: ha1
security:
  peers:
    - { name: laptop, esp: { spi-in: 0x101, spi-out: 0x102, suite: aes128-sha256, key-file: keys/laptop.here } }
anchor:
  addresses: ["2001:db8:a::1", 198.51.100.1]
  pools: [ { name: home, prefix: "2001:db8:2000::/48" } ]
  services: { dsmip6: {} }
  subscribers: { list: [ { id: laptop@example.net, families: [v6], hoa: "2001:db8:2000::5/64", peer: laptop } ] }
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, old, new string
		mode           os.FileMode
		want           string
	}{
		{"missing", "", "", 0, "no such file or directory; make a pair with \"kedge keys laptop\", and take the other half to the other side"},
		{"mode", "", "", 0o640, "has mode 0640: others may read or write it; run: chmod 600"},
		{"suite", "suite aes128-sha256", "suite null-sha256", 0o600, "want"},
		{"cut", string(good), string(good[:len(good)-9]), 0o600, "key file"},
		{"garbage", string(good), "hello", 0o600, `want "kedge-keys 1" first`},
	} {
		if err := os.Remove(pair.Here.File); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		if c.mode != 0 {
			if err := os.WriteFile(pair.Here.File, bytes.Replace(good, []byte(c.old), []byte(c.new), 1), c.mode); err != nil {
				t.Fatal(err)
			}
		}
		code, out, errs := kedge(t, "run", file)
		if code != exitUsage || !strings.Contains(errs, c.want) || !strings.Contains(errs, "ha1.yaml:5:") || !strings.Contains(errs, "security.peers[0].esp.") {
			t.Errorf("%s: %d %s%s\nwant %s", c.name, code, out, errs, c.want)
		}
		if code, out, _ := kedge(t, "check", file); code != 0 || !strings.Contains(out, "fatal") || !strings.Contains(out, "keys/laptop.here") {
			t.Errorf("%s: check: %d %s", c.name, code, out)
		}
		for _, line := range bytes.Fields(good) {
			if len(line) >= 32 && strings.Contains(errs+out, string(line)) {
				t.Errorf("%s: key material is shown", c.name)
			}
		}
	}
	// Keys of another suite than the file says.
	if err := os.Remove(pair.Here.File); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	if err := os.WriteFile(pair.Here.File, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(text, "aes128-sha256", "aes256-sha256", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	code, _, errs := kedge(t, "run", file)
	if code != exitUsage || !strings.Contains(errs, "is for aes128-sha256: the suites differ; write the suite of the key file, on both sides") || !strings.Contains(errs, "ha1.yaml:5:68") {
		t.Errorf("%d %s", code, errs)
	}
}

// TestKeysThatDoNotFit: check compares the key files of both ends where it finds them, and shows nothing of them.
func TestKeysThatDoNotFit(t *testing.T) {
	dir := t.TempDir()
	writeFile := func(file, text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, suite := range []struct{ flag, here, there string }{
		{"aes128-sha256", "esp: { spi-in: 0x501, spi-out: 0x502, suite: aes128-sha256, key-file: keys/laptop.here }",
			"esp: { spi-in: 0x502, spi-out: 0x501, suite: aes128-sha256, key-file: FILE }"},
		{"rfc4285", "rfc4285: { spi: 0x501, key-file: keys/laptop.here }", "rfc4285: { spi: 0x501, key-file: FILE }"},
	} {
		sub := filepath.Join(dir, suite.flag)
		if err := os.Mkdir(sub, 0o700); err != nil {
			t.Fatal(err)
		}
		keysIn(t, sub, "--suite", suite.flag)
		ha, node := filepath.Join(sub, "ha1.yaml"), filepath.Join(sub, "laptop.yaml")
		writeFile(ha, "version: 1\nname: ha1\nsecurity: { peers: [ { name: laptop, "+suite.here+` } ] }
anchor:
  addresses: ["2001:db8:a::1"]
  pools: [ { name: home, prefix: "2001:db8:2000::/48" } ]
  services: { dsmip6: {} }
  subscribers: { list: [ { id: laptop@example.net, families: [v6], hoa: "2001:db8:2000::5/64", peer: laptop } ] }
`)
		for _, c := range []struct {
			file string
			fits bool
		}{{"keys/laptop.there", true}, {"keys/elsewhere", true}, {"other/keys/laptop.there", false}} {
			if c.file[0] == 'o' {
				keysIn(t, filepath.Join(sub, "other"), "--suite", suite.flag)
			}
			writeFile(node, "version: 1\nname: laptop\nsecurity: { peers: [ { name: ha1, "+strings.Replace(suite.there, "FILE", c.file, 1)+` } ] }
node:
  anchor: { name: ha1, addresses: ["2001:db8:a::1"] }
  home: { v6: "2001:db8:2000::5/64", v4: none }
  links: [ { match: "*" } ]
`)
			code, out, errs := kedge(t, "check", "--no-host", ha, node)
			if code != 0 || strings.Contains(out, "the keys are not the other half") == c.fits || errs != "" {
				t.Errorf("%s with %s: %d\n%s%s", suite.flag, c.file, code, out, errs)
			}
		}
	}
}
