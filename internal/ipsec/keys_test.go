package ipsec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kedge/internal/ipsec/secret"
)

func TestKeyFiles(t *testing.T) {
	dir := t.TempDir()
	for _, s := range append(Suites(), string(SuiteRFC4285)) {
		k, err := GenerateKeys(Suite(s), rngReader{})
		if err != nil {
			t.Fatal(err)
		}
		one, two := filepath.Join(dir, s), filepath.Join(dir, s+".other")
		if err := WriteKeys(one, k); err != nil {
			t.Fatal(err)
		}
		if err := WriteKeys(two, k.Swapped()); err != nil {
			t.Fatal(err)
		}
		a, err := LoadKeys(one)
		if err != nil {
			t.Fatal(err)
		}
		b, err := LoadKeys(two)
		if err != nil {
			t.Fatal(err)
		}
		if !equalKeys(a, k) || !equalKeys(a, b.Swapped()) {
			t.Errorf("%s: what was written is not read", s)
		}
		st, err := os.Stat(one)
		if err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", s, st.Mode(), err)
		}
		if err := WriteKeys(one, k); err == nil {
			t.Errorf("%s: overwritten", s)
		}
	}
}

// equalKeys compares the material; cmp would ask String.
func equalKeys(a, b Keys) bool {
	eq := func(a, b secret.Key) bool { return bytes.Equal([]byte(a), []byte(b)) }
	return a.Suite == b.Suite && eq(a.In.Encryption, b.In.Encryption) && eq(a.In.Integrity, b.In.Integrity) &&
		eq(a.Out.Encryption, b.Out.Encryption) && eq(a.Out.Integrity, b.Out.Integrity) && eq(a.Shared, b.Shared)
}

func TestKeyFileModes(t *testing.T) {
	k, err := GenerateKeys("aes128-sha256", rngReader{})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "keys")
	if err := WriteKeys(path, k); err != nil {
		t.Fatal(err)
	}
	for mode, ok := range map[os.FileMode]bool{0o600: true, 0o400: true, 0o640: false, 0o604: false, 0o620: false, 0o601: false, 0o777: false} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadKeys(path); (err == nil) != ok || err != nil && !strings.Contains(err.Error(), "chmod 600 "+path) {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
	if _, err := LoadKeys(filepath.Dir(path)); err == nil {
		t.Error("a directory")
	}
	if _, err := LoadKeys(path + ".none"); err == nil || !strings.Contains(err.Error(), path) {
		t.Error(err)
	}
	if err := WriteKeys(filepath.Join(path, "x"), k); err == nil {
		t.Error("below a file")
	}
}

const goodKeys = `# for the anchor
kedge-keys 1
suite aes128-sha1
in encryption 000102030405060708090a0b0c0d0e0f
in integrity 000102030405060708090a0b0c0d0e0f10111213 # comment
out encryption 000102030405060708090a0b0c0d0e0f

out integrity 000102030405060708090A0B0C0D0E0F10111213
`

func TestParseKeys(t *testing.T) {
	if _, err := ParseKeys([]byte(goodKeys)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", "empty"},
		{"no version", strings.Replace(goodKeys, "kedge-keys 1", "", 1), `line 3: want "kedge-keys 1" first`},
		{"other version", strings.Replace(goodKeys, "kedge-keys 1", "kedge-keys 2", 1), "line 2"},
		{"PEM", "-----BEGIN PRIVATE KEY-----\nMII", "line 1"},
		{"no suite", strings.Replace(goodKeys, "suite aes128-sha1", "", 1), "unknown suite"},
		{"GCM", strings.Replace(goodKeys, "aes128-sha1", "aes128-gcm", 1), "RFC 4106 2"},
		{"other suite", strings.Replace(goodKeys, "aes128-sha1", "aes256-sha1", 1), "encryption key of 32 octets, not 16"},
		{"missing key", strings.Replace(goodKeys, "in encryption 000102030405060708090a0b0c0d0e0f", "", 1), "not 0"},
		{"odd digits", strings.Replace(goodKeys, "out encryption 00", "out encryption 0", 1), "line 6: out encryption: not hexadecimal"},
		{"no digits", strings.Replace(goodKeys, "out encryption 00", "out encryption zz", 1), "line 6"},
		{"twice", goodKeys + "suite aes128-sha1\n", "line 9: \"suite\" again"},
		{"unknown name", goodKeys + "inn encryption 00\n", "line 9: want one of"},
		{"value only", goodKeys + "cafe\n", "line 9: want one of"},
		{"long", goodKeys + strings.Repeat("#\n", maxKeyFile), "longer"},
		{"long line", goodKeys[:20] + strings.Repeat("a", 10000), "line 2"},
		{"rfc4285", "kedge-keys 1\nsuite rfc4285-hmac-sha1\nshared 00\n", "shared key of 16 octets, not 1"},
	} {
		_, err := ParseKeys([]byte(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		} else if strings.Contains(err.Error(), "0102030405") || strings.Contains(err.Error(), "cafe") {
			t.Errorf("%s: the error shows the file: %v", c.name, err)
		}
	}
}

func FuzzParseKeys(f *testing.F) {
	f.Add([]byte(goodKeys))
	k, err := GenerateKeys(SuiteRFC4285, rngReader{})
	if err != nil {
		f.Fatal(err)
	}
	b, err := k.MarshalFile()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, text []byte) {
		k, err := ParseKeys(text)
		if err != nil {
			return
		}
		again, err := k.MarshalFile()
		if err != nil {
			t.Fatal(err)
		}
		if l, err := ParseKeys(again); err != nil || !equalKeys(k, l) {
			t.Fatalf("%v", err)
		}
	})
}

// TestSecretsStaySecret prints, logs and marshals everything that holds a key in every way there is.
func TestSecretsStaySecret(t *testing.T) {
	key := secret.Key("\xca\xfe\xba\xbe\xca\xfe\xba\xbe\xca\xfe\xba\xbe\xca\xfe\xba\xbe")
	k := Keys{Suite: SuiteRFC4285, In: Half{key, key}, Out: Half{key, key}, Shared: key}
	p := Peer{Name: "p", SAs: []SA{{Keys: k}}}
	p.Mobility.Key = key
	var b bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%X", "%q", "%d"} {
		fmt.Fprintf(&b, verb+"\n", key)
		fmt.Fprintf(&b, verb+"\n", k)
		fmt.Fprintf(&b, verb+"\n", &k)
		fmt.Fprintf(&b, verb+"\n", Config{Peers: []Peer{p}})
	}
	for _, h := range []slog.Handler{slog.NewTextHandler(&b, nil), slog.NewJSONHandler(&b, nil)} {
		slog.New(h).Info("keys", "key", key, "keys", k, "peer", p)
	}
	j, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	b.Write(j)
	for _, leak := range []string{"cafe", "CAFE", "\xca\xfe", "202 254", "202, 254", "0xca", "yv66", `\xca`} {
		if i := strings.Index(b.String(), leak); i >= 0 {
			t.Errorf("%q in %s", leak, b.String()[max(0, i-100):min(b.Len(), i+50)])
		}
	}
	if err := json.Unmarshal([]byte(`"cafe"`), &key); err == nil {
		t.Error("a key out of JSON")
	}
}

func TestGenerateKeys(t *testing.T) {
	if _, err := GenerateKeys("aes128-gcm", rngReader{}); err == nil {
		t.Error("GCM with static keys")
	}
	if _, err := GenerateKeys("aes128-sha256", brokenReader{}); err == nil {
		t.Error("no randomness")
	}
	if _, err := GenerateKeys(SuiteRFC4285, brokenReader{}); err == nil {
		t.Error("no randomness")
	}
	if _, err := (Keys{Suite: "aes128-sha256"}).MarshalFile(); err == nil {
		t.Error("a file without keys")
	}
}
