package ipsec

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kedge/internal/spec"
	"kedge/wire"
)

func unhex(tb testing.TB, s string) []byte {
	tb.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func mustTransform(tb testing.TB, s Suite, k Half, esn bool) *transform {
	tb.Helper()
	t, err := newTransform(s, k, esn)
	if err != nil {
		tb.Fatal(err)
	}
	return t
}

// TestCBCVectors: the sample ESP packets of RFC 3602 4, which have no ICV; ours follows them.
func TestCBCVectors(t *testing.T) {
	spec.Covers(t, "RFC3602-4", "RFC4303-2.4")
	for _, c := range []struct {
		name, key, iv string
		spi           uint32
		seq           uint64
		next          uint8
		plain, cipher string
	}{
		{
			"case 5", "90d382b4 10eeba7a d938c46c ec1a82bf", "e96e8c08 ab465763 fd098d45 dd3ff893", 0x4321, 1, 1,
			`08000ebd a70a0000 8e9c083d b95b0700 08090a0b 0c0d0e0f 10111213 14151617
			18191a1b 1c1d1e1f 20212223 24252627 28292a2b 2c2d2e2f 30313233 34353637`,
			`f663c25d 325c18c6 a9453e19 4e120849 a4870b66 cc6b9965 330013b4 898dc856
			a4699e52 3a55db08 0b59ec3a 8e4b7e52 775b07d1 db34ed9c 538ab50c 551b874a a269add0 47ad2d59 13ac19b7 cfbad4a6`,
		},
		{
			"case 6", "90d382b4 10eeba7a d938c46c ec1a82bf", "69d08df7 d203329d b093fc49 24e5bd80", 0x4321, 8, 1,
			"0800b5e8 a80a0500 a69c083d 0b660e00 77777777 77777777 77777777",
			"f5199588 1ec4e0c4 488987ce 742e8109 689bb379 d2d750c0 d915dca3 46a89f75",
		},
		{
			"case 7, tunnel mode", "01234567 89abcdef 01234567 89abcdef", "f4e76524 4f6407ad f13dc138 0f673f37", 0x8765, 2, 4,
			`45000054 09040000 4001f988 c0a87b03 c0a87bc8 08009f76 a90a0100 b49c083d 02a20400 08090a0b 0c0d0e0f 10111213 14151617
			18191a1b 1c1d1e1f 20212223 24252627 28292a2b 2c2d2e2f 30313233 34353637`,
			`773b5241 a4c44922 5e4f3ce5 ed611b0c 237ca96c f74a9301 3c1b0ea1 a0cf70f8 e4ecaec7 8ac53aad 7a0f022b 859243c6 47752e94
			a859352b 8a4d4d2d ecd136e5 c177f132 ad3fbfb2 201ac990 4c74ee0a 109e0ca1 e4dfe9d5 a100b842 f1c22f0d`,
		},
	} {
		k := Half{Encryption: unhex(t, c.key), Integrity: make([]byte, 32)}
		b, err := mustTransform(t, "aes128-sha256", k, false).seal(nil, c.spi, c.seq, c.next, unhex(t, c.plain), bytes.NewReader(unhex(t, c.iv)))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(hex.EncodeToString(unhex(t, c.iv+c.cipher)), hex.EncodeToString(b[header:len(b)-16])); d != "" {
			t.Errorf("%s: %s", c.name, d)
		}
		out, next, reason := mustTransform(t, "aes128-sha256", k, false).open(nil, b, c.seq)
		if reason != "" || next != c.next || !bytes.Equal(out, unhex(t, c.plain)) {
			t.Errorf("%s: %x %d %s", c.name, out, next, reason)
		}
	}
}

// TestHMACVectors: RFC 4868 2.7.2, truncated as ESP does it.
func TestHMACVectors(t *testing.T) {
	spec.Covers(t, "RFC4868-2.7.2")
	jefe, what := "4a6566654a6566654a6566654a656665", "7768617420646f2079612077616e7420666f72206e6f7468696e673f"
	for _, c := range []struct{ suite, key, data, icv string }{
		{"null-sha256", strings.Repeat("0b", 32), "4869205468657265", "198a607eb44bfbc69903a0f1cf2bbdc5"},
		{"null-sha256", jefe + jefe, what, "167f928588c5cc2eef8e3093caa0e87c"},
		{"null-sha256", strings.Repeat("aa", 32), strings.Repeat("dd", 50), "cdcb1220d1ecccea91e53aba3092f962"},
		{"null-sha384", strings.Repeat("0b", 48), "4869205468657265", "b6a8d5636f5c6a7224f9977dcf7ee6c7fb6d0c48cbdee973"},
		{"null-sha384", jefe + jefe + jefe, what, "2c7353974f1842fd66d53c452ca42122b28c0b594cfb184d"},
		{"null-sha512", strings.Repeat("0b", 64), "4869205468657265", "637edc6e01dce7e6742a99451aae82df23da3e92439e590e43e761b33e910fb8"},
		{"null-sha512", jefe + jefe + jefe + jefe, what, "cb370917ae8a7ce28cfd1d8f4705d6141c173b2a9362c15df235dfb251b15454"},
	} {
		tr := mustTransform(t, Suite(c.suite), Half{Integrity: unhex(t, c.key)}, false)
		for range 2 { // the state is used again
			if got := hex.EncodeToString(tr.icvOf(unhex(t, c.data), 0)); got != c.icv {
				t.Errorf("%s of %s: %s", c.suite, c.data, got)
			}
		}
	}
}

// TestGCMVector: a case of draft-mcgrew-gcm-test-01, which has extended sequence numbers in its associated data.
func TestGCMVector(t *testing.T) {
	spec.Covers(t, "RFC4106-5")
	k := Half{Encryption: unhex(t, "4c80cdefbb5d10da906ac73c3613a634 2e443b68")}
	esp := unhex(t, `00004321 00000000 4956ed7e3b244cfe
		fecf537e729d5b07dc30df528dd22b768d1b98736696a6fd348509fa13ceac34cfa2436f14a3f3cf65925bf1f4a13c5d15b21e1884f5ff6247aeabb786b93bce
		61bc17d768fd9732 4590181 48f6cbe722fd04796562dfdb4`)
	plain := unhex(t, `45000048699a000080114db7c0a80102c0a801010a9bf15638d3010000010000
		00000000045f736970045f756470037369700963796265726369747902646b0000210001`)
	out, next, reason := mustTransform(t, "aes128-gcm", k, true).open(nil, esp, 0x87654321<<32)
	if reason != "" || next != 1 || !bytes.Equal(out, plain) {
		t.Fatalf("%x next %d %q", out, next, reason)
	}
	esp[20] ^= 1
	if _, _, reason = mustTransform(t, "aes128-gcm", k, true).open(nil, esp, 0x87654321<<32); reason != wire.BadICV {
		t.Errorf("changed: %q", reason)
	}
}

// allSuites are those with static keys and those without.
func allSuites() []Suite {
	all := []Suite{"aes128-gcm", "aes192-gcm", "aes256-gcm"}
	for _, s := range Suites() {
		all = append(all, Suite(s))
	}
	return all
}

// testHalf makes keys that differ in each octet and direction.
func testHalf(tb testing.TB, s Suite, from byte) Half {
	tb.Helper()
	enc, auth, gcm, err := s.parse()
	if err != nil {
		tb.Fatal(err)
	}
	n := enc.key
	if gcm {
		n += gcmSalt
	}
	fill := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			from += 7
			b[i] = from
		}
		return b
	}
	return Half{Encryption: fill(n), Integrity: fill(auth.key)}
}

func TestSuitesRoundTrip(t *testing.T) {
	spec.Covers(t, "RFC4303-2.2.1")
	prefix := []byte("headers")
	for _, s := range allSuites() {
		for _, esn := range []bool{false, true} {
			k := testHalf(t, s, 1)
			a, b := mustTransform(t, s, k, esn), mustTransform(t, s, k, esn)
			for n := range 70 {
				payload := bytes.Repeat([]byte{byte(n)}, n)
				seq := uint64(n) + 5
				if esn {
					seq += 3 << 32
				}
				p, err := a.seal(prefix, 0x1001, seq, 135, payload, rngReader{})
				if err != nil || !bytes.HasPrefix(p, prefix) {
					t.Fatalf("%s: %v", s, err)
				}
				p = p[len(prefix):]
				if len(p)%4 != 0 || len(p) > n+MaxOverhead {
					t.Fatalf("%s: %d octets of payload make %d", s, n, len(p))
				}
				out, next, reason := b.open(prefix, p, seq)
				if reason != "" || next != 135 || !bytes.Equal(out, append(bytes.Clone(prefix), payload...)) {
					t.Fatalf("%s: %x %d %q", s, out, next, reason)
				}
				if esn { // the high half is authenticated though it is not sent
					if _, _, reason := b.open(nil, p, seq+1<<32); reason != wire.BadICV {
						t.Fatalf("%s: other high half: %q", s, reason)
					}
				}
				for i := range p { // RFC 4303 3.4.4
					if i >= 4 && i < 8 && strings.HasSuffix(string(s), "gcm") {
						continue // the associated data have the number that the window says, not the octets
					}
					p[i] ^= 0x80
					if out, _, reason := b.open(prefix, p, seq); reason != wire.BadICV || len(out) != len(prefix) {
						t.Fatalf("%s: octet %d changed: %q", s, i, reason)
					}
					p[i] ^= 0x80
				}
				for i := range p {
					if out, _, reason := b.open(prefix, p[:i], seq); reason == "" || len(out) != len(prefix) {
						t.Fatalf("%s: cut to %d octets: %q", s, i, reason)
					}
				}
			}
		}
	}
}

// rngReader is randomness that is none.
type rngReader struct{}

func (rngReader) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(i*i + len(b))
	}
	return len(b), nil
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errors.New("no entropy") }

func TestNoRandomnessNoPacket(t *testing.T) {
	tr := mustTransform(t, "aes128-sha256", testHalf(t, "aes128-sha256", 1), false)
	buf := make([]byte, 0, 200)
	out, err := tr.seal(buf, 300, 1, 135, []byte("secret payload"), brokenReader{})
	if err == nil || len(out) != 0 || bytes.Contains(buf[:200], []byte("secret")) {
		t.Errorf("%x %v", buf[:200], err)
	}
}

// TestPadding seals by hand what a correct sender never would.
func TestPadding(t *testing.T) {
	spec.Covers(t, "RFC4303-2.4")
	k := testHalf(t, "null-sha256", 1)
	make := func(tail ...byte) []byte {
		tr := mustTransform(t, "null-sha256", k, false)
		p := append(unhex(t, "00001001 00000001"), tail...)
		return append(p, tr.icvOf(p, 1)...)
	}
	for _, c := range []struct {
		name string
		esp  []byte
		want wire.Reason
		out  string
	}{
		{"none", make(9, 9, 0, 135), "", "0909"},
		{"1 2 3 4", make(9, 9, 1, 2, 3, 4, 4, 135), "", "0909"},
		{"all padding", make(1, 2, 2, 135), "", ""},
		{"more than there is", make(1, 2, 3, 135), wire.BadPadding, ""},
		{"255 of 4 octets", make(1, 2, 255, 135), wire.BadPadding, ""},
		{"zeros", make(9, 9, 0, 0, 0, 0, 4, 135), wire.BadPadding, ""},
		{"last one off", make(9, 9, 1, 2, 3, 5, 4, 135), wire.BadPadding, ""},
		{"not aligned", make(9, 0, 135), wire.BadLength, ""},
		{"nothing", make(), wire.Truncated, ""},
		{"one octet", make(1), wire.Truncated, ""},
	} {
		out, _, reason := mustTransform(t, "null-sha256", k, false).open(nil, c.esp, 1)
		if reason != c.want || hex.EncodeToString(out) != c.out {
			t.Errorf("%s: %q %x", c.name, reason, out)
		}
	}
}

func TestSuiteNames(t *testing.T) {
	spec.Covers(t, "RFC4106-2")
	for _, s := range Suites() {
		if err := Suite(s).CheckStatic(); err != nil {
			t.Error(err)
		}
	}
	for s, want := range map[Suite]string{
		"aes128-gcm": `RFC 4106 2: "implementations MUST use an automated key management system"`,
		"aes256-gcm": "write aes256-sha256",
		"null-gcm":   "unknown suite", "": "unknown suite", "aes128": "unknown suite", "aes128-": "unknown suite", "-": "unknown suite",
		"3des-sha1": "want one of aes128-sha256", "aes128-null": "unknown suite", "aes128-md5": "unknown suite",
	} {
		if err := s.CheckStatic(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", s, err, want)
		}
	}
	if _, err := newTransform("aes128-sha256", Half{}, false); err == nil {
		t.Error("a transform without keys")
	}
}
