package mobility

import (
	"errors"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"kedge/internal/spec"
	"kedge/internal/testpcap"
	"kedge/wire"
)

func TestHomeAgentSwitch(t *testing.T) {
	spec.Covers(t, "RFC5142-4")
	a, b := netip.MustParseAddr("2001:db8:a::1"), netip.MustParseAddr("2001:db8:a::2")
	const one, two = "20010db8000a00000000000000000001", "20010db8000a00000000000000000002"
	checkWritten(t, []written{
		{"nothing", &HomeAgentSwitch{}, "3b 00 0c 00 0000 00 00"},
		{"two addresses", &HomeAgentSwitch{Addresses: []netip.Addr{a, b}}, "3b 04 0c 00 0000 02 00" + one + two},
		{"time left", &HomeAgentSwitch{Addresses: []netip.Addr{b}, Options: Options(nil).AddAt(8, BindingRefreshAdvice{75})},
			"3b 03 0c 00 0000 01 00" + two + "02 02 004b 01 02 0000"},
		{"only an option", &HomeAgentSwitch{Options: Options(nil).AddAt(8, BindingRefreshAdvice{75})}, "3b 01 0c 00 0000 00 00 02 02 004b 01 02 0000"},
	})
}

func TestHomeAgentSwitchRefused(t *testing.T) {
	const one = "20010db8000a00000000000000000001"
	short := wire.Error{Msg: "Home Agent Switch", Field: "Header Len", Off: 1, RFC: "RFC 5142 4", Reason: wire.BadLength, ParameterProblem: true}
	checkRefused(t, []refused{
		{"one of none", sealed(t, "3b 00 0c 00 0000 01 00"), short},
		{"two of one", sealed(t, "3b 02 0c 00 0000 02 00"+one), short},
		{"255 of one", sealed(t, "3b 02 0c 00 0000 ff ff"+one), short},
		{"half", sealed(t, "3b 01 0c 00 0000 01 00 20010db8000a0000"), short},
	})
	// The reserved octet is ignored.
	m, err := Parse(sealed(t, "3b 02 0c 00 0000 01 ff"+one), magAddr, lmaAddr)
	if s, ok := m.(*HomeAgentSwitch); err != nil || !ok || len(s.Addresses) != 1 || s.Options != nil {
		t.Errorf("%+v, %v", m, err)
	}
}

// TestHomeAgentSwitchLimit: 127 addresses fill a header.
func TestHomeAgentSwitchLimit(t *testing.T) {
	for n, fits := range map[int]bool{127: true, 128: false, 300: false} {
		m := &HomeAgentSwitch{Addresses: make([]netip.Addr, n)}
		for i := range m.Addresses {
			m.Addresses[i] = magAddr
		}
		b, err := Append(nil, m, magAddr, lmaAddr)
		if fits != (err == nil) || !fits && !errors.Is(err, wire.TooLong) {
			t.Errorf("%d addresses: %v", n, err)
			continue
		}
		if fits {
			if back, err := Parse(b, magAddr, lmaAddr); err != nil || len(back.(*HomeAgentSwitch).Addresses) != n {
				t.Errorf("%d addresses: %v", n, err)
			}
		}
	}
}

// TestHomeAgentSwitchTshark lets tshark read list and count. It looks for the options six octets too early (in the Mobility
// Header's own first octets: a packet without options is malformed to it), so they are not asked for.
func TestHomeAgentSwitchTshark(t *testing.T) {
	file := filepath.Join(t.TempDir(), "switch.pcap")
	var frames [][]byte
	for _, m := range []*HomeAgentSwitch{{}, {Addresses: []netip.Addr{lmaAddr, magAddr}, Options: Options(nil).AddAt(8, BindingRefreshAdvice{75})}} {
		b, err := Append(nil, m, lmaAddr, magAddr)
		if err != nil {
			t.Fatal(err)
		}
		frames = append(frames, testpcap.Frame(lmaAddr, magAddr, b))
	}
	testpcap.Write(t, file, frames)
	out, err := exec.Command("tshark", "-n", "-r", file, "-T", "fields", "-e", "mip6.mhtype", "-e", "mip6.hlen", "-e", "mip6.has.num_addrs", "-e", "mip6.has.address").Output()
	want := "12 0 0\n12 5 2 2001:db8:a::1,2001:db8:f::1\n"
	if got := strings.ReplaceAll(strings.ReplaceAll(string(out), "\t", " "), " \n", "\n"); err != nil || got != want {
		t.Errorf("tshark (Debian package tshark) reads %q, want %q, %v", got, want, err)
	}
	mhcheck(t, file, len(frames))
}
