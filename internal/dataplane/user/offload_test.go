package user

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"kedge/internal/core"
	"kedge/internal/dataplane/conformance"
	"kedge/internal/dataplane/conformance/kernel"
	"kedge/internal/dataplane/mem"
	"kedge/wire/ip"
)

// planes of a test that sets more than the suite does.
func planesWith(set func(*Config)) func(kernel.Config) (kernel.Plane, error) {
	return func(c kernel.Config) (kernel.Plane, error) {
		cfg := Config{
			Role: c.Role, Local: c.Local, Access: c.Access, LocalRouting: c.LocalRouting, EncapsulationLimit: c.EncapsulationLimit, Home: c.Home,
			Anchors: c.Anchors, ProbeID: c.ProbeID, Unreachable: c.Unreachable, Now: c.Now,
		}
		set(&cfg)
		return New(cfg)
	}
}

var errOld = errors.New("this kernel is old")

// TestStreamsWithQueues: the same with a queue for each core, and with none of the offloads.
func TestStreamsWithQueues(t *testing.T) {
	kernel.ShortStreams(t, planesWith(func(c *Config) { c.Queues = 3 }))
}

func TestStreamsWithoutOffloads(t *testing.T) {
	kernel.ShortStreams(t, planesWith(func(c *Config) { c.Lacks = func(Offload) error { return errOld } }))
}

// TestOffloadsLacking: whatever the kernel refuses, the plane opens, and says what is off and why.
func TestOffloadsLacking(t *testing.T) {
	outside, inside := namespaces(t)
	link(t, outside, inside, "acc1")
	anchor := Config{Role: Anchor, Local: []netip.Addr{conformance.LMAA, conformance.LMAA4}, Queues: 2}
	gateway := Config{Role: Gateway, Local: []netip.Addr{conformance.CoA1}, Access: []Link{{Name: "acc1", MAC: conformance.RouterMAC}}}
	for _, c := range []struct {
		name   string
		cfg    Config
		lacks  []Offload
		off    []Offload
		queues int
	}{
		{"anchor", anchor, nil, nil, 2},
		{"anchor, no super packets", anchor, []Offload{TUNSuper}, []Offload{TUNSuper}, 2},
		{"anchor, no datagrams", anchor, []Offload{TUNDatagrams}, []Offload{TUNDatagrams}, 2},
		{"anchor, one queue", anchor, []Offload{TUNQueues}, []Offload{TUNQueues}, 1},
		{"anchor, no UDP_SEGMENT", anchor, []Offload{SegmentUDP}, []Offload{SegmentUDP}, 2},
		{"anchor, no UDP_GRO", anchor, []Offload{CoalesceUDP}, []Offload{CoalesceUDP}, 2},
		{"gateway", gateway, nil, nil, 0},
		{"gateway, no super frames", gateway, []Offload{FrameSuper}, []Offload{FrameSuper}, 0},
	} {
		c.cfg.Lacks = func(o Offload) error {
			if slices.Contains(c.lacks, o) {
				return errOld
			}
			return nil
		}
		p, err := New(c.cfg)
		must(t, err)
		s := p.Status()
		var off []Offload
		for _, o := range s.Offloads {
			if !o.On {
				off = append(off, o.Offload)
				if want := "the kernel refuses: this kernel is old"; o.Why != want {
					t.Errorf("%s: %v is off because %q, want %q", c.name, o.Offload, o.Why, want)
				}
			} else if o.Why != "" {
				t.Errorf("%s: %v is on, but %q", c.name, o.Offload, o.Why)
			}
		}
		if !slices.Equal(off, c.off) || s.Queues != c.queues {
			t.Errorf("%s: %v are off, %d queues; want %v, %d", c.name, off, s.Queues, c.off, c.queues)
		}
		must(t, p.Close())
	}
}

// TestRefusedLater: what the kernel took at first and then refuses is off from then on, and says so.
func TestRefusedLater(t *testing.T) {
	namespaces(t)
	p, err := New(Config{Role: Anchor, Local: []netip.Addr{conformance.LMAA}})
	must(t, err)
	defer p.Close()
	c := &coalescer{tcp: true, udp: true}
	p.refuse(c, ip.GSOUDPL4, unix.EINVAL)
	if c.udp || !c.tcp || p.on(TUNDatagrams) || !p.on(TUNSuper) || p.newSendBatch().gro.udp {
		t.Errorf("datagrams are refused: %+v", p.Status())
	}
	p.refuse(c, ip.GSOTCP6, unix.EINVAL)
	if c.tcp || p.on(TUNSuper) || p.newSendBatch().gro.tcp {
		t.Errorf("segments are refused: %+v", p.Status())
	}
	for _, o := range p.Status().Offloads {
		if o.Offload == TUNSuper && !strings.Contains(o.Why, "invalid argument") {
			t.Errorf("%v: %q", o.Offload, o.Why)
		}
	}
}

// TestPersistentDeviceOfOneQueue: a node adopts a device that an earlier one made without queues.
func TestPersistentDeviceOfOneQueue(t *testing.T) {
	namespaces(t)
	cfg := Config{Role: Node, Persist: true, Queues: 2, Lacks: func(o Offload) error { return map[Offload]error{TUNQueues: errOld}[o] }}
	one, err := New(cfg)
	must(t, err)
	must(t, one.Close())
	cfg.Lacks = nil
	two, err := New(cfg)
	must(t, err)
	if s := two.Status(); s.Queues != 1 || two.on(TUNQueues) {
		t.Errorf("%+v", s)
	}
	must(t, two.Close())
	must(t, RemoveDevice(DefaultDevice))
	three, err := New(cfg)
	must(t, err)
	if s := three.Status(); s.Queues != 2 || !three.on(TUNQueues) {
		t.Errorf("%+v", s)
	}
	must(t, three.Close())
	cfg.Lacks = func(o Offload) error { return map[Offload]error{TUNQueues: errOld}[o] }
	four, err := New(cfg)
	must(t, err)
	must(t, four.Close())
	must(t, RemoveDevice(DefaultDevice))
}

// TestForwardingAllocatesNothing: packets out of the device or of an access link into a tunnel, and out of one to there, small,
// large, and many in one.
func TestForwardingAllocatesNothing(t *testing.T) {
	outside, inside := namespaces(t)
	link(t, outside, inside, "acc1")
	host := netip.MustParsePrefix("2001:db8:1000:1::/64")
	mac := core.MAC{2, 0, 0, 0, 9, 9}
	for _, role := range []Role{Anchor, Gateway} {
		cfg := Config{Role: role, UDP: true, Local: []netip.Addr{conformance.LMAA, conformance.LMAA4}, MTU: 1500, Queues: 2}
		if role == Gateway {
			cfg.Access = []Link{{Name: "acc1", MAC: conformance.RouterMAC}}
		}
		p, err := New(cfg)
		must(t, err)
		at := 0
		for at = range p.links {
		}
		for i, c := range []struct {
			near, far netip.Addr
			port      uint16
		}{
			{conformance.LMAA, conformance.CoA1, 0}, {conformance.LMAA, conformance.CoA1, 4191},
			{conformance.LMAA4, conformance.CoA4, 0}, {conformance.LMAA4, conformance.CoA4, 4191},
		} {
			id := core.ID(i + 1)
			set, key := core.SetSession{ID: id, Chain: layer(c.near, c.far, c.port, c.port)}, core.Match{Dst: host}
			if role == Gateway {
				set.If, set.MAC = at, mac
				key = core.Match{Src: host, If: at, MAC: mac}
			}
			must(t, p.Update([]core.Op{set, core.SetKey{ID: id, Match: key, Up: true, Down: true}}))
			o := mem.Outer{Local: netip.AddrPortFrom(c.near, c.port), Remote: netip.AddrPortFrom(c.far, c.port), Proto: ip.IPv6, Offload: true}
			if c.port != 0 {
				o.Proto = ip.UDP
			}
			for _, size := range []int{16, 1300, 26000} {
				to := segment{n: size, udp: size == 16}.packet()
				back := bytes.Clone(to)
				copy(back[8:], to[24:40])
				copy(back[24:], to[8:24])
				if role == Gateway {
					to, back = back, to
				}
				in, packets := mem.Native{If: at, MAC: mac, B: to}, 20
				if size == 26000 {
					in.VNet, back, packets = ip.VNet{Type: ip.GSOTCP6, Size: 1300}, back[:0], 200
				}
				out, b := &mem.Out{Split: true}, p.newSendBatch()
				now, was := p.now(), p.Dropped("send-failed")
				work := func() {
					out.Reset()
					for range 10 {
						to[7] = 60
						p.Native(now, in, out)
					}
					for range 10 {
						if len(back) != 0 {
							back[7] = 60
							p.Decapsulate(now, o, back, out)
						}
					}
					_ = p.send(out, b) // there is no route to the other end: that costs nothing either
				}
				work()
				if n := allocations(work); n != 0 || len(out.Packets) != packets {
					t.Errorf("role %d, %v port %d, %d octets: %v allocations for %d packets, %d not sent", role, c.near, c.port, size, n, len(out.Packets), p.Dropped("send-failed")-was)
				}
			}
			must(t, p.Update([]core.Op{core.Drop{ID: id}}))
		}
		must(t, p.Close())
	}
}

// allocations of a run of work: the least of three counts, for those of goroutines that end elsewhere are counted as well.
func allocations(work func()) float64 {
	n := testing.AllocsPerRun(50, work)
	for range 2 {
		n = min(n, testing.AllocsPerRun(50, work))
	}
	return n
}

// TestTwoCapabilities: CAP_NET_ADMIN and CAP_NET_RAW are all that a plane needs.
func TestTwoCapabilities(t *testing.T) {
	if role := os.Getenv("KEDGE_TEST_ROLE"); role != "" {
		var caps [2]unix.CapUserData
		must(t, unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &caps[0]))
		if caps[0].Permitted != 1<<unix.CAP_NET_ADMIN|1<<unix.CAP_NET_RAW || caps[1].Permitted != 0 {
			t.Fatalf("capabilities %+v", caps)
		}
		cfg := Config{Role: Anchor, Local: []netip.Addr{conformance.LMAA, conformance.LMAA4}}
		switch role {
		case "node":
			cfg = Config{Role: Node, Persist: true}
		case "gateway":
			cfg = Config{Role: Gateway, UDP: true, Local: []netip.Addr{conformance.CoA1}, Access: []Link{{Name: "acc1", MAC: conformance.RouterMAC}}}
		}
		p, err := New(cfg)
		must(t, err)
		for _, o := range p.Status().Offloads {
			if !o.On {
				t.Errorf("%v is off: %s", o.Offload, o.Why)
			}
		}
		must(t, p.Close())
		return
	}
	outside, inside := namespaces(t)
	link(t, outside, inside, "acc1")
	for _, role := range []string{"anchor", "node", "gateway"} {
		done := make(chan error)
		var out []byte
		go func() {
			runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
			err := netns.Set(inside)
			for c := uintptr(0); err == nil && c <= unix.CAP_LAST_CAP; c++ {
				if c != unix.CAP_NET_ADMIN && c != unix.CAP_NET_RAW {
					err = unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0) // root has no others when it executes something
				}
			}
			if err == nil {
				cmd := exec.Command("/proc/self/exe", "-test.run=^TestTwoCapabilities$")
				cmd.Env = append(os.Environ(), "KEDGE_TEST_ROLE="+role)
				out, err = cmd.CombinedOutput()
			}
			done <- err
		}()
		if err := <-done; err != nil || !bytes.Contains(out, []byte("PASS")) {
			t.Errorf("%s: %v: %s", role, err, out)
		}
	}
}

// TestNothingRunsBeforeAllIsOpen: what a reader finds out at its start, it finds out when it is known.
func TestNothingRunsBeforeAllIsOpen(t *testing.T) {
	p := &Plane{}
	ran := false
	p.goes(func() { ran = true })
	p.done.Wait()
	if ran {
		t.Error("it ran at once")
	}
	p.start()
	if p.done.Wait(); !ran {
		t.Error("it never ran")
	}
}
