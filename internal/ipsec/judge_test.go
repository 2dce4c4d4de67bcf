package ipsec

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kedge/internal/spec"
	"kedge/internal/testpcap"
	"kedge/wire/ip"
	"kedge/wire/mobility"
)

// tsharkNames are the algorithms as tshark's table of security associations has them.
var tsharkNames = map[string]string{
	"aes128": "AES-CBC [RFC3602]", "aes192": "AES-CBC [RFC3602]", "aes256": "AES-CBC [RFC3602]", "null": "NULL",
	"sha256": "HMAC-SHA-256-128 [RFC4868]", "sha384": "HMAC-SHA-384-192 [RFC4868]", "sha512": "HMAC-SHA-512-256 [RFC4868]",
	"sha1": "HMAC-SHA-1-96 [RFC2404]",
}

// TestTsharkDecodesOurs: for each suite, a Binding Update behind a Home Address option and a Home Test Init in a tunnel. tshark
// with the keys finds the ICV correct and reads the message.
func TestTsharkDecodesOurs(t *testing.T) {
	spec.Covers(t, "RFC4303-3.3.2", "RFC4877-6", "RFC6275-11.3.2")
	var frames [][]byte
	var args []string
	var want []string
	for i, name := range allSuites() {
		gcm := strings.HasSuffix(string(name), "gcm")
		spi := uint32(0x1000 + 16*i)
		sa := testSA(t, Signalling, name, spi)
		tun := testSA(t, ReturnRoutability, name, spi+2)
		sa.Negotiated, tun.Negotiated = gcm, gcm
		peer := Peer{Name: "ha", Addresses: []netip.Prefix{netip.PrefixFrom(agent, 128)}, Own: []netip.Addr{home1}, Protection: ESP, SAs: []SA{sa}}
		if name.confidential() {
			peer.SAs = append(peer.SAs, tun)
		}
		e := mustNew(t, &Volatile{}, peer)
		if err := e.UpdateEndpoint("ha", home1, careOf, agent); err != nil {
			t.Fatal(err)
		}
		record := func(s SA) {
			enc, auth, _ := strings.Cut(string(s.Keys.Suite), "-")
			cipher, mac := tsharkNames[enc], tsharkNames[auth]
			if gcm {
				cipher, mac = "AES-GCM with 16 octet ICV [RFC4106]", "NULL"
			}
			hexKey := func(b []byte) string {
				if len(b) == 0 {
					return ""
				}
				return "0x" + hex.EncodeToString(b)
			}
			args = append(args, "-o", fmt.Sprintf(`uat:esp_sa:"IPv6","*","*","0x%08x","%s","%s","%s","%s"`,
				s.SPIOut, cipher, hexKey(s.Keys.Out.Encryption), mac, hexKey(s.Keys.Out.Integrity)))
		}
		bu := &mobility.BindingUpdate{Sequence: uint16(100 + i), Flags: mobility.BUAck | mobility.BUHome, Lifetime: 30,
			Options: mobility.Options{}.Add(mobility.AlternateCareOf{Addr: careOf})}
		body, err := mobility.Append(nil, bu, home1, agent)
		if err != nil {
			t.Fatal(err)
		}
		record(sa)
		tm, _ := toAgent(5)
		esp, _, _, err := e.Outbound(at(0), tm, body, nil)
		if err != nil {
			t.Fatal(err)
		}
		frames = append(frames, frame(t, esp))
		want = append(want, fmt.Sprintf("%#08x|1|5|%d|", sa.SPIOut, bu.Sequence))
		if !name.confidential() {
			continue
		}
		record(tun)
		hoti, err := mobility.Append(nil, &mobility.TestInit{Cookie: [8]byte{1, 2, 3, 4, 5, 6, 7, byte(i)}}, home1, cn)
		if err != nil {
			t.Fatal(err)
		}
		inner, err := (&ip.Header{Src: home1, Dst: cn, Proto: ProtoMH, TTL: 64}).Append(nil, len(hoti))
		if err != nil {
			t.Fatal(err)
		}
		inner = append(inner, hoti...)
		tr, err := InnerTraffic(inner, true)
		if err != nil {
			t.Fatal(err)
		}
		b, auth, err := e.Tunnel(at(0), tr, inner, make([]byte, 14))
		if err != nil || auth.Kind != KindESP {
			t.Fatal(auth, err)
		}
		b[0], b[12], b[13] = 2, 0x86, 0xdd
		frames = append(frames, b)
		want = append(want, fmt.Sprintf("%#08x|1|1||0x01020304050607%02x", tun.SPIOut, i))
	}
	file := filepath.Join(t.TempDir(), "esp.pcap")
	testpcap.Write(t, file, frames)
	if got := runTshark(t, file, args); !cmp.Equal(want, got) {
		t.Errorf("SPI|good ICV|MH type|sequence|cookie (-want +tshark):\n%s", cmp.Diff(want, got))
	}
	// The judge can tell: an octet changed is a bad ICV.
	bad := append([]byte(nil), frames[0]...)
	bad[len(bad)-1] ^= 1
	testpcap.Write(t, file, [][]byte{bad})
	if got := runTshark(t, file, args); len(got) != 1 || strings.Contains(got[0], "|1|5|") {
		t.Errorf("a wrong ICV passes tshark: %q", got)
	}
}

// frame is Ethernet | IPv6(care-of > agent) | Destination Options [Home Address option] | ESP.
func frame(t *testing.T, esp []byte) []byte {
	t.Helper()
	hao := append([]byte{ProtoESP, 2, 1, 2, 0, 0, 0xc9, 16}, home1.AsSlice()...)
	b := make([]byte, 12, 200)
	b[0] = 2
	b = binary.BigEndian.AppendUint16(b, 0x86dd)
	b, err := (&ip.Header{Src: careOf, Dst: agent, Proto: 60, TTL: 64}).Append(b, len(hao)+len(esp))
	if err != nil {
		t.Fatal(err)
	}
	return append(append(b, hao...), esp...)
}

func runTshark(t *testing.T, file string, sas []string) []string {
	t.Helper()
	args := append([]string{"-r", file, "-o", "esp.enable_encryption_decode:TRUE", "-o", "esp.enable_authentication_check:TRUE",
		"-T", "fields", "-E", "separator=|", "-e", "esp.spi", "-e", "esp.icv_good", "-e", "mip6.mhtype", "-e", "mip6.bu.seqnr", "-e", "mip6.hoti.cookie"}, sas...)
	var stderr strings.Builder
	cmd := exec.Command("tshark", args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("tshark: %v: %s (Debian package tshark)", err, &stderr)
	}
	return strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
}
