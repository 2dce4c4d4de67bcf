package ipsec

import (
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
)

// TestTsharkReadsData: tshark with the keys finds the ICV good and reads the inner packet, of both families, in protocol 50 and in UDP
// port 4500, over IPv4 and IPv6, with AES-GCM and with suites of static keys.
func TestTsharkReadsData(t *testing.T) {
	spec.Covers(t, "RFC4303-3.3.2", "RFC3948-2.1")
	ends := [][2]netip.Addr{
		{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("192.0.2.7")},
		{netip.MustParseAddr("2001:db8:a::1"), netip.MustParseAddr("2001:db8:b::7")},
	}
	var frames [][]byte
	var args, want []string
	spi := DataSPI | 0x3000
	for _, suite := range []Suite{"aes128-gcm", "aes256-gcm", "aes128-sha256", "null-sha512"} {
		for _, end := range ends {
			for _, udp := range []bool{false, true} {
				spi++
				keys := dataKeys(t, suite)
				d := NewData(DataConfig{}, nil)
				if err := d.Add(DataSA{Handle: 1, Peer: "p", SPIIn: spi, SPIOut: spi, Keys: keys, Negotiated: true}); err != nil {
					t.Fatal(err)
				}
				family := map[bool]string{true: "IPv4", false: "IPv6"}[end[0].Is4()]
				enc, auth, _ := strings.Cut(string(suite), "-")
				cipher, mac := tsharkNames[enc], tsharkNames[auth]
				if auth == "gcm" {
					cipher, mac = "AES-GCM with 16 octet ICV [RFC4106]", "NULL"
				}
				args = append(args, "-o", fmt.Sprintf(`uat:esp_sa:"%s","*","*","0x%08x","%s","%s","%s","%s"`, family, spi, cipher, text(keys.Out.Encryption), mac, text(keys.Out.Integrity)))
				for _, next := range []uint8{protoIPv4, ProtoIPv6} {
					esp := mustSeal(t, d, 1, next, innerOf(t, next, 90))
					frames = append(frames, around(t, end[0], end[1], udp, esp))
					inner := map[uint8]string{protoIPv4: "10.0.0.2", ProtoIPv6: "2001:db8::2"}[next]
					want = append(want, fmt.Sprintf("%#08x|%t|%s", spi, udp, inner))
				}
			}
		}
	}
	file := filepath.Join(t.TempDir(), "data.pcap")
	testpcap.Write(t, file, frames)
	var stderr strings.Builder
	cmd := exec.Command("tshark", append([]string{"-r", file, "-o", "esp.enable_encryption_decode:TRUE", "-o", "esp.enable_authentication_check:TRUE",
		"-T", "fields", "-E", "separator=|", "-e", "esp.spi", "-e", "esp.icv_good", "-e", "udp.port", "-e", "ip.dst", "-e", "ipv6.dst"}, args...)...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("tshark: %v: %s (Debian package tshark)", err, &stderr)
	}
	var got []string
	for line := range strings.Lines(string(out)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "|")
		if f[1] != "1" {
			t.Errorf("no good ICV: %s", line)
		}
		// The last of the addresses is the innermost; which family it has, the other column shows.
		inner := "none"
		for _, a := range strings.Split(f[3]+","+f[4], ",") {
			if a == "10.0.0.2" || a == "2001:db8::2" {
				inner = a
			}
		}
		got = append(got, fmt.Sprintf("%s|%t|%s", f[0], strings.HasPrefix(f[2], "4500,4500"), inner))
	}
	if !cmp.Equal(want, got) {
		t.Errorf("SPI|in UDP|inner destination (-want +tshark):\n%s", cmp.Diff(want, got))
	}
}

func text(key []byte) string {
	if len(key) == 0 {
		return ""
	}
	return "0x" + hex.EncodeToString(key)
}

// around is Ethernet, IP and perhaps UDP around ESP.
func around(t *testing.T, src, dst netip.Addr, udp bool, esp []byte) []byte {
	t.Helper()
	b := append(make([]byte, 12, 300), 0x86, 0xdd)
	if b[0] = 2; src.Is4() {
		b[12], b[13] = 0x08, 0x00
	}
	h, n := ip.Header{Src: src, Dst: dst, Proto: ProtoESP, TTL: 64}, len(esp)
	if udp {
		h.Proto, n = ip.UDP, n+ip.UDPLen
	}
	b, err := h.Append(b, n)
	if err == nil && udp {
		b, err = ip.AppendUDP(b, netip.AddrPortFrom(src, 4500), netip.AddrPortFrom(dst, 4500), esp)
	} else {
		b = append(b, esp...)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}
