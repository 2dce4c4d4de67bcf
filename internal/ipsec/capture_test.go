package ipsec

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"net/netip"
	"os"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kedge/internal/core"
	"kedge/internal/spec"
	"kedge/internal/testpcap"
	"kedge/wire"
	"kedge/wire/mobility"
)

const (
	umipCapture = "../../testdata/vectors/umip-esp-all.pcap"
	umipKeys    = "../../testdata/vectors/umip-esp-keys.txt"
)

// umipSAs are the associations of the capture, as its home agent has them. All have the same keys.
func umipSAs(tb testing.TB) []SA {
	tb.Helper()
	f, err := os.Open(umipKeys)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	var keys [][]byte
	for sc := bufio.NewScanner(f); sc.Scan(); {
		for _, m := range regexp.MustCompile(`key 0x([0-9a-f]+)`).FindAllStringSubmatch(sc.Text(), -1) {
			keys = append(keys, unhex(tb, m[1]))
		}
	}
	if len(keys) != 2 {
		tb.Fatalf("%d keys in %s", len(keys), umipKeys)
	}
	h := Half{Encryption: keys[0], Integrity: keys[1]}
	var all []SA
	for i, use := range []Use{Signalling, PrefixDiscovery, ReturnRoutability} {
		spi := uint32(0x1001 + 2*i)
		all = append(all, SA{Use: use, SPIIn: spi, SPIOut: spi + 1, Keys: Keys{Suite: "aes128-sha1", In: h, Out: h}})
	}
	return all
}

// captured is one ESP packet of a capture, and the headers before it.
type captured struct {
	src, dst         netip.Addr
	srcHome, dstHome netip.Addr
	esp              []byte
}

func espOf(frame []byte) (c captured, ok bool) {
	if len(frame) < 54 || binary.BigEndian.Uint16(frame[12:]) != 0x86dd {
		return c, false
	}
	p := frame[14:]
	c.src, c.dst = netip.AddrFrom16([16]byte(p[8:])), netip.AddrFrom16([16]byte(p[24:]))
	next, rest := p[6], p[40:40+int(binary.BigEndian.Uint16(p[4:]))]
	for next == 60 || next == 43 {
		n := (int(rest[1]) + 1) * 8
		if i := bytes.Index(rest[:n], []byte{0xc9, 16}); next == 60 && i > 0 {
			c.srcHome = netip.AddrFrom16([16]byte(rest[i+2:]))
		}
		if next == 43 && rest[2] == 2 {
			c.dstHome = netip.AddrFrom16([16]byte(rest[8:]))
		}
		next, rest = rest[0], rest[n:]
	}
	c.esp = rest
	return c, next == ProtoESP
}

// TestUMIPCapture: what another implementation protected with static keys, read as its home agent and as its mobile node. Every
// packet was captured on two links, so each comes twice.
func TestUMIPCapture(t *testing.T) {
	spec.Covers(t, "RFC3776-5.2", "RFC4877-6", "RFC4303-3.4.3")
	sas := umipSAs(t)
	var theirs []SA
	for _, s := range sas {
		theirs = append(theirs, swap(s))
	}
	ha := mustNew(t, &Volatile{}, Peer{Name: "mn", Homes: []netip.Addr{home1}, Own: []netip.Addr{agent}, Protection: ESP, SAs: sas})
	mn := mustNew(t, &Volatile{}, Peer{Name: "ha", Addresses: []netip.Prefix{netip.PrefixFrom(agent, 128)}, Own: []netip.Addr{home1}, Protection: ESP, SAs: theirs})
	seen := map[string]int{}
	for i, f := range testpcap.Read(t, umipCapture) {
		c, ok := espOf(f)
		if !ok {
			continue
		}
		e := ha
		if c.src == agent {
			e = mn
		}
		spi := binary.BigEndian.Uint32(c.esp)
		if spi >= 0x1005 { // the binding says where the tunnel is
			if err := e.UpdateEndpoint(map[*Engine]string{ha: "mn", mn: "ha"}[e], home1, c.dst, c.src); err != nil {
				t.Fatal(err)
			}
		}
		tr := Traffic{Local: c.dst, Remote: c.src, LocalHome: c.dstHome, RemoteHome: c.srcHome}
		got, proto, auth, err := e.Inbound(at(0), tr, c.esp, nil)
		if reasonOf(err) == wire.Replayed {
			seen["replayed"]++
			continue
		}
		if err != nil || auth.SPI != spi {
			t.Errorf("frame %d, SPI %#x: %v", i+1, spi, err)
			continue
		}
		tr.Proto, tr.Type = proto, 0
		src, dst := tr.remote(), tr.local()
		if proto == ProtoIPv6 {
			if tr, err = InnerTraffic(got, false); err != nil {
				t.Fatal(err)
			}
			proto, src, dst, got = tr.Proto, tr.Remote, tr.Local, got[40:]
		}
		describe(&tr, proto, got)
		if _, err := e.Check(at(0), tr, auth); err != nil {
			t.Errorf("frame %d: %v", i+1, err)
		}
		if _, err := e.Check(at(0), tr, core.Auth{Kind: KindNone}); reasonOf(err) != wire.Unprotected {
			t.Errorf("frame %d in the clear: %v", i+1, err)
		}
		switch proto {
		case ProtoMH:
			m, err := mobility.Parse(got, src, dst)
			if err != nil {
				t.Errorf("frame %d: %v", i+1, err)
				continue
			}
			seen[m.Type().String()]++
		case ProtoICMPv6:
			seen[map[byte]string{146: "MPS", 147: "MPA"}[got[0]]]++
		}
	}
	t.Log(seen)
	replayed := seen["replayed"]
	delete(seen, "replayed")
	total := 0
	for _, kind := range []string{"Binding Update", "Binding Acknowledgement", "MPS", "MPA", "Home Test Init"} {
		if seen[kind] == 0 {
			t.Errorf("no %s in the capture", kind)
		}
		total += seen[kind]
	}
	if d := cmp.Diff(total, replayed); d != "" {
		t.Errorf("read once, refused once: %s", d)
	}
}
