package uml

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kedge/internal/api"
	"kedge/internal/system/netns"
)

// copied puts the daemon and a config where the guest sees them.
func (s *site) copied(text string) {
	s.Helper()
	b, err := os.ReadFile(kedge)
	netns.Must(s, err)
	netns.Must(s, os.WriteFile(filepath.Join(s.g.dir, "kedge"), b, 0o700))
	netns.Must(s, os.WriteFile(filepath.Join(s.g.dir, "config.yaml"), []byte("version: 1\nname: inside\napi: { socket: /run/k.sock }\nstore: { path: /run/k.db }\n"+text), 0o600))
}

// TestCheckInGuest: "kedge check" says of this kernel what is so: what it lacks for Mobile IPv6, and how programs of BPF are attached.
func TestCheckInGuest(t *testing.T) {
	t.Parallel()
	s := newSite(t, "tun", "sch_ingress", "cls_bpf", "nf_tables")
	s.ip(fmt.Sprintf("addr add %v/64 dev vec0 nodad", lmaa6))
	s.copied("peer: {}\n")
	out, err := s.g.Run(t.Context(), Share+"/kedge", "check", "--here", Share+"/config.yaml")
	for _, want := range []string{
		"ok      kernel                       Linux 6.1.",
		"ok      raw socket 135               opens",
		"ok      TUN                          /dev/net/tun makes devices",
		"attaches programs by clsact: tcx came with Linux 6.6",
		"advice  tunnels of the other family",
		"fatal   nftables                     nftables: the kernel takes no rules for IPv6", // CONFIG_NF_TABLES_IPV6 is off
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q", want)
		}
	}
	if t.Failed() {
		t.Log(out, err)
	}
	// Without them there is no correspondent, and it says why.
	out, err = s.g.Run(t.Context(), Share+"/kedge", "run", Share+"/config.yaml")
	if err == nil || !strings.Contains(out, "CONFIG_NF_TABLES_IPV6") || strings.Count(out, "\n") > 1 {
		t.Errorf("%q, %v", out, err)
	}
}

// TestProgramsInGuest: the verifier of this kernel takes the programs of all roles, also of those that do not run here.
func TestProgramsInGuest(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b, err := os.ReadFile("../../dataplane/ebpf/bpf/kedge.o")
	netns.Must(t, err)
	netns.Must(t, os.WriteFile(filepath.Join(s.g.dir, "kedge.o"), b, 0o600))
	out, err := s.tool(guestSide, "programs", Share+"/kedge.o")
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out, "processed "); n != 72 {
		t.Errorf("%d programs were looked at, want 72", n)
	}
	t.Log(out)
}

// TestAnchorInGuest: our daemon is an anchor in this kernel, with each data plane; its gateway is outside. The programs of back end ebpf are
// attached by clsact there, and forward while the daemon is stopped.
func TestAnchorInGuest(t *testing.T) {
	t.Parallel()
	s := newSiteOf(t, 2, "tun", "sch_ingress", "cls_bpf")
	far, phone := newSpace(t), newSpace(t)
	_, err := s.g.Connect(1, far, "eth0", wireMTU)
	netns.Must(t, err)
	netns.TestVeth(t, netns.End{NS: s.edge, Name: "acc0", MTU: wireMTU}, netns.End{NS: phone, Name: "eth0", MTU: wireMTU})
	s.at(far, fmt.Sprintf("addr add %v/64 dev eth0 nodad", cn6), "route add ::/0 via 2001:db8:c::1")
	s.at(s.edge, fmt.Sprintf("addr add %v/64 dev eth0 nodad", coa6))
	s.ip(fmt.Sprintf("addr add %v/64 dev vec0 nodad", lmaa6), "link set vec1 up", "addr add 2001:db8:c::1/64 dev vec1 nodad")
	cn := side{"correspondent", far}
	s.echoes(cn, cn6)
	s.daemon(t.TempDir(), "mag1", fmt.Sprintf(`
security: { peers: [ { name: inside, addresses: ["%v"], protection: none } ] }
dataplane: { kind: user }
gateway:
  address: "%v"
  ordering: sequence # a guest's clock falls behind where processors are few
  anchors: [ { name: inside, address: "%v" } ]
  access: [ { interface: acc0, identity: { realm: example.net } } ]
`, lmaa6, coa6, lmaa6))
	for _, kind := range []string{"user", "ebpf"} {
		t.Run(kind, func(t *testing.T) {
			s := s.on(t)
			s.copied(fmt.Sprintf(`
security: { peers: [ { name: mag1, addresses: ["%v"], protection: none } ] }
dataplane: { kind: %s }
anchor:
  addresses: ["%v"]
  pools: [ { name: home6, prefix: "2001:db8:1000::/48" } ]
  services: { pmip6: { gateways: [mag1] } }
  subscribers: { default: accept, families: [v6] }
`, coa6, kind, lmaa6))
			s.inside(kind)
			home := s.attached(phone)
			host := side{"host", phone}
			s.echoes(host, home)
			s.talk(host, cn6, 1<<20, lengths...)
			s.talk(cn, home, 1<<20, lengths...)
			if kind == "ebpf" && !t.Failed() {
				s.stopped(host, home, cn)
			}
		})
	}
}

// inside runs the daemon in the guest until the test ends, and waits until it has a data plane.
func (s *site) inside(kind string) {
	s.Helper()
	run := s.g.Start("sh", "-c", "echo $$ >/run/k.pid; exec "+Share+"/kedge run "+Share+"/config.yaml")
	s.Cleanup(func() {
		run.Stop()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_, _ = run.Wait(ctx) // it was ended
		if s.Failed() {
			s.Logf("log of the daemon in the guest:\n%s", run.Output())
		}
	})
	s.until(func() error {
		out, err := s.g.Run(s.Context(), Share+"/kedge", "status", "-s", "/run/k.sock", "-o", "json")
		if err != nil {
			return err
		}
		var st api.Status
		if err := json.Unmarshal([]byte(out), &st); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		if len(st.Dataplane) != 1 || st.Dataplane[0].Kind != kind || (kind == "ebpf") != (st.Dataplane[0].Attach == "clsact") {
			return fmt.Errorf("data planes %+v, want %s", st.Dataplane, kind)
		}
		return nil
	})
}

// attached has a phone come anew, and gives the address that it gets.
func (s *site) attached(phone *netns.NS) (home netip.Addr) {
	s.Helper()
	netns.Must(s, phone.Down("eth0"))
	netns.Must(s, phone.Up("eth0"))
	s.until(func() error {
		list, err := phone.Addrs("eth0")
		for _, p := range list {
			if p.Addr().IsGlobalUnicast() && p.Addr().Is6() {
				home = p.Addr()
				return nil
			}
		}
		return fmt.Errorf("the phone has no address: %v %v", list, err)
	})
	return home
}

// stopped wants a phone and a correspondent to talk while the daemon in the guest does nothing: its programs do it all.
func (s *site) stopped(host side, home netip.Addr, cn side) {
	s.Helper()
	_, err := s.g.Run(s.Context(), "sh", "-c", "kill -STOP $(cat /run/k.pid)")
	netns.Must(s, err)
	s.talk(host, cn6, 1<<20, "1000", "1400")
	s.talk(cn, home, 1<<20, "1000", "1400")
}

// TestGatewayInGuest: our daemon is a gateway in this kernel, and its anchor is outside.
func TestGatewayInGuest(t *testing.T) {
	t.Parallel()
	s := newSiteOf(t, 2, "tun", "sch_ingress", "cls_bpf")
	far, phone := newSpace(t), newSpace(t)
	_, err := s.g.Connect(1, phone, "eth0", wireMTU)
	netns.Must(t, err)
	netns.TestVeth(t, netns.End{NS: s.edge, Name: "net0", MTU: wireMTU}, netns.End{NS: far, Name: "eth0", MTU: wireMTU})
	s.at(far, fmt.Sprintf("addr add %v/64 dev eth0 nodad", cn6), "route add ::/0 via 2001:db8:c::1")
	s.at(s.edge, fmt.Sprintf("addr add %v/64 dev eth0 nodad", lmaa6), "addr add 2001:db8:c::1/64 dev net0 nodad")
	s.ip(fmt.Sprintf("addr add %v/64 dev vec0 nodad", coa6), "link set vec1 up")
	cn, host := side{"correspondent", far}, side{"host", phone}
	s.echoes(cn, cn6)
	s.daemon(t.TempDir(), "lma1", fmt.Sprintf(`
security: { peers: [ { name: inside, addresses: ["%v"], protection: none } ] }
anchor:
  addresses: ["%v"]
  pools: [ { name: home6, prefix: "2001:db8:1000::/48" } ]
  services: { pmip6: { gateways: [inside] } }
  subscribers: { default: accept, families: [v6] }
`, coa6, lmaa6))
	for _, kind := range []string{"user", "ebpf"} {
		t.Run(kind, func(t *testing.T) {
			s := s.on(t)
			s.copied(fmt.Sprintf(`
security: { peers: [ { name: lma1, addresses: ["%v"], protection: none } ] }
dataplane: { kind: %s }
gateway:
  address: "%v"
  ordering: sequence # a guest's clock falls behind where processors are few
  anchors: [ { name: lma1, address: "%v" } ]
  access: [ { interface: vec1, identity: { realm: example.net } } ]
`, lmaa6, kind, coa6, lmaa6))
			s.inside(kind)
			home := s.attached(phone)
			s.echoes(host, home)
			s.talk(host, cn6, 1<<20, lengths...)
			s.talk(cn, home, 1<<20, lengths...)
			if kind == "ebpf" && !t.Failed() {
				s.stopped(host, home, cn)
			}
		})
	}
}
