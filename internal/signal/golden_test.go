package signal

import (
	"bufio"
	"encoding/hex"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"kedge/internal/core"
	"kedge/internal/ipsec"
	"kedge/internal/spec"
	"kedge/internal/testpcap"
	"kedge/wire"
	"kedge/wire/ip"
	"kedge/wire/mobility"
	"kedge/wire/nd"
)

const vectors = "../../testdata/vectors"

// Addresses of the captures.
var (
	umipHA   = netip.MustParseAddr("2001:db8:1::1")
	umipHome = netip.MustParseAddr("2001:db8:1::100")
)

// umipKeys are the associations of the ESP capture, from the home agent's side. All have the same keys.
func umipKeys(t testing.TB) []ipsec.SA {
	t.Helper()
	f, err := os.Open(filepath.Join(vectors, "umip-esp-keys.txt"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var keys [][]byte
	for sc := bufio.NewScanner(f); sc.Scan(); {
		for _, m := range regexp.MustCompile(`key 0x([0-9a-f]+)`).FindAllStringSubmatch(sc.Text(), -1) {
			b, err := hex.DecodeString(m[1])
			if err != nil {
				t.Fatal(err)
			}
			keys = append(keys, b)
		}
	}
	if len(keys) != 2 {
		t.Fatalf("%d keys", len(keys))
	}
	h := ipsec.Half{Encryption: keys[0], Integrity: keys[1]}
	var all []ipsec.SA
	for i, use := range []ipsec.Use{ipsec.Signalling, ipsec.PrefixDiscovery, ipsec.ReturnRoutability} {
		spi := uint32(0x1001 + 2*i)
		all = append(all, ipsec.SA{Use: use, SPIIn: spi, SPIOut: spi + 1, Keys: ipsec.Keys{Suite: "aes128-sha1", In: h, Out: h}})
	}
	return all
}

// signalling gives the IPv6 packets of a capture that carry Mobility Headers or ESP.
func signalling(t testing.TB, name string) (pkts [][]byte) {
	t.Helper()
	for _, f := range testpcap.Read(t, filepath.Join(vectors, name)) {
		if len(f) < 54 || f[12] != 0x86 || f[13] != 0xdd {
			continue
		}
		if s, err := ip.ParseSignal(f[14:]); err == nil && (s.Proto == ip.Mobility || s.Proto == ip.ESP) {
			pkts = append(pkts, f[14:14+s.Len])
		}
	}
	return pkts
}

// TestUMIPCaptures: what another implementation's home agent, node and correspondent node sent, as its receivers.
func TestUMIPCaptures(t *testing.T) {
	spec.Covers(t, "RFC6275-6.3", "RFC6275-6.4", "RFC3776-3.1", "RFC3776-3.2", "RFC3776-3.3", "RFC4877-4.3")
	var theirs []ipsec.SA
	for _, sa := range umipKeys(t) {
		theirs = append(theirs, swap(sa))
	}
	ha := engine(t, ipsec.Peer{Name: "mn", Homes: []netip.Addr{umipHome}, Own: []netip.Addr{umipHA}, Protection: ipsec.ESP, SAs: umipKeys(t)})
	mn := engine(t, ipsec.Peer{Name: "ha", Addresses: []netip.Prefix{netip.PrefixFrom(umipHA, 128)}, Own: []netip.Addr{umipHome}, Protection: ipsec.ESP, SAs: theirs})
	for _, c := range []struct {
		name   string
		ha, mn *ipsec.Engine
		want   map[string]int // at least; with ESP each packet is in the capture twice
	}{
		{"umip-noipsec-brh.pcap", nil, nil, map[string]int{"Binding Update": 2, "Binding Acknowledgement": 1, "home": 2, "routed": 1}},
		{"umip-ro-all.pcap", nil, nil, map[string]int{"Binding Update": 4, "Binding Acknowledgement": 4, "Home Test Init": 1, "Care-of Test": 1}},
		{"umip-nemo-brh.pcap", nil, nil, map[string]int{"Binding Update": 1, "Binding Acknowledgement": 1}},
		{"umip-esp-all.pcap", ha, mn, map[string]int{"Binding Update": 1, "Binding Acknowledgement": 1, "Mobile Prefix Solicitation": 1, "Mobile Prefix Advertisement": 1,
			"forwarded Home Test Init": 1, "Home Test Init": 1, "Care-of Test Init": 1, "esp": 5, "home": 2, "routed": 2, "replayed": 5}},
	} {
		correspondent := NewCodec(Config{})
		agent, node := NewCodec(Config{IPsec: c.ha}), NewCodec(Config{IPsec: c.mn, Homes: []netip.Addr{umipHome}})
		seen := make(map[string]int)
		for i, pkt := range signalling(t, c.name) {
			s, err := ip.ParseSignal(pkt)
			if err != nil {
				t.Fatal(err)
			}
			codec := agent
			if s.DstHome.IsValid() || s.Src == umipHA {
				codec = node
			}
			if c.ha != nil && s.Dst != umipHA && codec == agent {
				codec = correspondent
			}
			if _, dst := s.Ends(); s.DstHome.IsValid() && dst != umipHome { // the mobile router of the NEMO capture
				node.SetHomes(umipHome, dst)
			}
			var came core.Packet
			err = codec.In(now(), pkt, core.Chain{}, &came)
			switch {
			case errors.Is(err, wire.Replayed):
				seen["replayed"]++
				continue
			case err != nil:
				t.Errorf("%s: packet %d from %s to %s: %v", c.name, i, s.Src, s.Dst, err)
				continue
			}
			seen[came.Auth.Kind]++
			if came.Proto == ip.IPv6 { // for the correspondent node
				h, err := ip.Parse(came.B)
				if err != nil || h.Src != umipHome || h.Proto != ip.Mobility {
					t.Errorf("%s: packet %d: to be forwarded %+v, %v", c.name, i, h, err)
					continue
				}
				came.B, came.Proto = came.B[h.HdrLen:], 0
				seen["forwarded "+decoded(t, &came).Body.(mobility.Message).Type().String()]++
				continue
			}
			switch m := decoded(t, &came).Body.(type) {
			case mobility.Message:
				seen[m.Type().String()]++
				if c.ha == nil {
					break
				}
				switch m.(type) { // tunnels follow what both have agreed on
				case *mobility.BindingUpdate:
					err = c.ha.UpdateEndpoint("mn", umipHome, s.Dst, s.Src)
				case *mobility.BindingAck:
					err = c.mn.UpdateEndpoint("ha", umipHome, s.Dst, s.Src)
				}
				if err != nil {
					t.Error(err)
				}
			case nd.Message:
				seen[nd.Name(came.B[0])]++
			}
			if came.SrcHome.IsValid() {
				seen["home"]++
			}
			if came.DstHome.IsValid() {
				seen["routed"]++
			}
		}
		for what, n := range c.want {
			if seen[what] < n {
				t.Errorf("%s: %d times %s, want %d; all: %v", c.name, seen[what], what, n, seen)
			}
		}
	}
}
