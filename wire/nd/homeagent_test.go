package nd

import (
	"bytes"
	"encoding/hex"
	"errors"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kedge/internal/spec"
	"kedge/internal/testpcap"
	"kedge/wire"
	"kedge/wire/ip"
)

// TestHomeAgentOctets writes the messages octet for octet, the checksum as zero.
func TestHomeAgentOctets(t *testing.T) {
	const agentHex, homeHex = "20010db8100000000000000000000099", "20010db810000000000000000000000a"
	for _, c := range []struct {
		m    Message
		want string
	}{
		{&HomeAgentAddressDiscoveryRequest{ID: 0xabcd}, "90 00 0000 abcd 0000"},
		{&HomeAgentAddressDiscoveryRequest{ID: 0xabcd, Mobile: true}, "90 00 0000 abcd 8000"},
		{&HomeAgentAddressDiscoveryReply{ID: 0xabcd, Addresses: []netip.Addr{agent, home}}, "91 00 0000 abcd 0000" + agentHex + homeHex},
		{&HomeAgentAddressDiscoveryReply{ID: 0xabcd, Mobile: true}, "91 00 0000 abcd 8000"},
		{&MobilePrefixSolicitation{ID: 0xbeef}, "92 00 0000 beef 0000"},
		{&MobilePrefixAdvertisement{ID: 0xbeef, Managed: true}, "93 00 0000 beef 8000"},
		{&MobilePrefixAdvertisement{ID: 0xbeef, Other: true, Options: Options{
			&PrefixInformation{Prefix: netip.PrefixFrom(agent, 64), OnLink: true, RouterAddr: true, Valid: 0x01020304, Preferred: 5},
		}}, "93 00 0000 beef 4000 03 04 40 a0 01020304 00000005 00000000" + agentHex},
		{&RouterAdvertisement{HomeAgent: true, Options: Options{AdvertisementInterval(70), HomeAgentInformation{Preference: 0x0102, Lifetime: 0x0304}}},
			"86 00 0000 00 20 0000 00000000 00000000 07 01 0000 00000046 08 01 0000 0102 0304"},
		{&RouterAdvertisement{Options: Options{HomeAgentInformation{Mobile: true}}}, "86 00 0000 00 00 0000 00000000 00000000 08 01 8000 0000 0000"},
	} {
		b, err := Append(nil, c.m, agent, home)
		if err != nil {
			t.Fatal(err)
		}
		b[2], b[3] = 0, 0
		want, err := hex.DecodeString(strings.ReplaceAll(c.want, " ", ""))
		if err != nil || !bytes.Equal(b, want) {
			t.Errorf("%T: %x, want %x, %v", c.m, b, want, err)
		}
	}
}

// TestReservedOfHomeAgents: what is reserved is ignored by receivers.
func TestReservedOfHomeAgents(t *testing.T) {
	for _, c := range []struct {
		octets string
		want   Message
	}{
		{"9000000000017fff", &HomeAgentAddressDiscoveryRequest{ID: 1}},
		{"9100000000017fff", &HomeAgentAddressDiscoveryReply{ID: 1}},
		{"920000000001ffff", &MobilePrefixSolicitation{ID: 1}},
		{"9300000000013fff", &MobilePrefixAdvertisement{ID: 1}},
		{"86000000000000000000000000000000" + "0701ffff00000001" + "08017fff00010002",
			&RouterAdvertisement{Options: Options{AdvertisementInterval(1), HomeAgentInformation{Preference: 1, Lifetime: 2}}}},
	} {
		b, err := hex.DecodeString(c.octets)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Parse(seal(b, router, home), Envelope{Src: router, Dst: home, HopLimit: 255})
		if d := cmp.Diff(c.want, got, compare); err != nil || d != "" {
			t.Errorf("%s: %v\n%s", c.octets, err, d)
		}
	}
}

func TestHomeAgentsAnycast(t *testing.T) {
	spec.Covers(t, "RFC2526-2")
	for prefix, want := range map[string]string{
		"2001:db8:1000::99/64":    "2001:db8:1000:0:fdff:ffff:ffff:fffe",
		"2001:db8:1000::/56":      "2001:db8:1000:0:fdff:ffff:ffff:fffe",
		"2001:db8::1:2:0:0/96":    "2001:db8::1:2:ffff:fffe",
		"2001:db8::ff00/121":      "2001:db8::ff7e",
		"2001:db8::ff80/121":      "2001:db8::fffe",
		"2001:db8:0:0:8000::/65":  "2001:db8::ffff:ffff:ffff:fffe",
		"2001:db8:0:0:1200::7/72": "2001:db8::12ff:ffff:ffff:fffe",
	} {
		if got := HomeAgentsAnycast(netip.MustParsePrefix(prefix)); got != netip.MustParseAddr(want) {
			t.Errorf("%s: %v, want %s", prefix, got, want)
		}
	}
	for _, bad := range []netip.Prefix{{}, netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/122")} {
		if got := HomeAgentsAnycast(bad); got.IsValid() {
			t.Errorf("%v: %v", bad, got)
		}
	}
}

// TestMostHomeAgents: the longest list that is sent makes a packet of the least MTU.
func TestMostHomeAgents(t *testing.T) {
	m := &HomeAgentAddressDiscoveryReply{}
	for range HomeAgentsInMinimumMTU {
		m.Addresses = append(m.Addresses, agent)
	}
	b, err := Append(nil, m, agent, careOf)
	if err != nil || ip.IPv6Len+len(b) > 1280 || ip.IPv6Len+len(b)+16 <= 1280 {
		t.Errorf("%d octets, %v", ip.IPv6Len+len(b), err)
	}
	m.Addresses = append(m.Addresses, netip.MustParseAddr("10.0.0.1"))
	if _, err := Append(nil, m, agent, careOf); !errors.Is(err, wire.BadValue) {
		t.Errorf("an IPv4 address: %v", err)
	}
}

// TestHomeAgentsTshark lets an independent program read what we build.
func TestHomeAgentsTshark(t *testing.T) {
	var frames [][]byte
	packet := func(m Message, src, dst netip.Addr, hops uint8) {
		b, err := Append(nil, m, src, dst)
		if err != nil {
			t.Fatal(err)
		}
		h := ip.Header{Src: src, Dst: dst, Proto: ip.ICMPv6, TTL: hops}
		f, err := h.Append(append(make([]byte, 12), 0x86, 0xdd), len(b))
		if err != nil {
			t.Fatal(err)
		}
		frames = append(frames, append(f, b...))
	}
	packet(&HomeAgentAddressDiscoveryRequest{ID: 0xabcd, Mobile: true}, careOf, anycast, 64)
	packet(&HomeAgentAddressDiscoveryReply{ID: 0xabcd, Addresses: []netip.Addr{agent, home}}, agent, careOf, 64)
	packet(&MobilePrefixSolicitation{ID: 0xbeef}, home, agent, 64)
	packet(&MobilePrefixAdvertisement{ID: 0xbeef, Managed: true, Options: Options{
		&PrefixInformation{Prefix: netip.PrefixFrom(agent, 64), OnLink: true, RouterAddr: true, Valid: 600, Preferred: 300}}}, agent, home, 64)
	packet(&RouterAdvertisement{HomeAgent: true, RouterLifetime: 1800, Options: Options{
		AdvertisementInterval(70), HomeAgentInformation{Mobile: true, Preference: 0x1234, Lifetime: 65535}}}, router, AllNodes, 255)
	file := filepath.Join(t.TempDir(), "homeagents.pcap")
	testpcap.Write(t, file, frames)
	tshark := func(args ...string) string {
		out, err := exec.Command("tshark", append([]string{"-n", "-r", file}, args...)...).Output()
		if err != nil {
			t.Fatalf("tshark: %v (Debian package tshark)", err)
		}
		return strings.TrimSpace(string(out))
	}
	if bad := tshark("-Y", "_ws.malformed || _ws.expert.severity >= 0x600000 || icmpv6.checksum.status == 0"); bad != "" {
		t.Errorf("tshark finds fault:\n%s", bad)
	}
	args := []string{"-T", "fields", "-E", "separator=|", "-E", "occurrence=a"}
	for _, f := range []string{"icmpv6.type", "icmpv6.code", "icmpv6.mip6.identifier", "icmpv6.mip6.home_agent_address", "icmpv6.opt.prefix", "icmpv6.opt.prefix.flag.r",
		"icmpv6.nd.ra.flag.h", "icmpv6.opt.advertisement_interval", "icmpv6.opt.home_agent_preference", "icmpv6.opt.home_agent_lifetime"} {
		args = append(args, "-e", f)
	}
	want := []string{
		"144|0|43981|||||||",
		"145|0|43981|2001:db8:1000::99,2001:db8:1000::a||||||",
		"146|0|48879|||||||",
		"147|0|48879||2001:db8:1000::99|1||||",
		"134|0|||||1|70|4660|65535",
	}
	if d := cmp.Diff(want, strings.Split(tshark(args...), "\n")); d != "" {
		t.Errorf("(-built +read by tshark):\n%s", d)
	}
}
