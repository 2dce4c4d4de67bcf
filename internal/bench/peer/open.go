package peer

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"

	"kedge/internal/bench/network"
	"kedge/internal/bench/way"
	"kedge/internal/core"
	"kedge/internal/dataplane"
	"kedge/internal/dataplane/ebpf"
	"kedge/internal/dataplane/user"
	"kedge/internal/ipsec"
	"kedge/internal/ipsec/secret"
)

// hold is longer than any run: a plane that is frozen while others are measured does not look dead to its programs.
const hold = 24 * time.Hour

// openPlane makes a plane and its sessions.
func (e *end) openPlane() (err error) {
	w := e.open.Way
	var ok bool
	if e.encap, ok = way.FindEncap(w.Encap); !ok {
		return fmt.Errorf("no encapsulation %q", w.Encap)
	}
	n := max(1, w.Sessions)
	cfg, err := e.config(n)
	if err != nil {
		return err
	}
	if w.Kind == way.User {
		p, err := user.New(cfg)
		if err != nil {
			return err
		}
		e.plane, e.drops = p, p.Drops
	} else {
		p, err := ebpf.New(ebpf.Config{
			Config: cfg, Core: []string{network.CoreLink, network.CoreSecond, network.NetLink},
			Sessions: n, Keys: 2*n + 64, Clsact: w.Kind == way.Clsact, Hold: hold,
		})
		if err != nil {
			return err
		}
		e.plane, e.ebpf, e.drops = p, p, p.Drops
	}
	const chunk = 1 << 14 // sessions made by one update
	for from := 1; from <= n; from += chunk {
		if err := e.plane.Update(e.encap.Ops(e.open.At, from, min(n+1, from+chunk), e.access)); err != nil {
			return err
		}
	}
	for i := range min(n, CountOf) {
		e.ids = append(e.ids, core.ID(i+1))
	}
	return nil
}

func (e *end) config(sessions int) (user.Config, error) {
	cfg := user.Config{Role: dataplane.Anchor, Device: network.Device, Local: []netip.Addr{way.Anchor6, way.Anchor4, way.AnchorIn6}}
	if e.open.At != way.Anchor {
		i, err := net.InterfaceByName(network.AccessLink)
		if err != nil {
			return cfg, err
		}
		e.access = i.Index
		cfg.Role, cfg.UDP, cfg.Local = dataplane.Gateway, e.encap.UDP, []netip.Addr{way.Gateway6, way.Gateway4, way.Inner6}
		if e.open.At == way.Second {
			cfg.Local = []netip.Addr{way.Second6, way.Second4}
		}
		cfg.Access = []dataplane.Link{{Name: network.AccessLink, MAC: way.RouterMAC, LinkLocal: way.Access6}}
	}
	if e.encap.ESP {
		d := ipsec.NewData(ipsec.DataConfig{}, nil)
		for i := range sessions {
			if err := d.Add(association(e.open.At == way.Anchor, uint32(i+1))); err != nil {
				return cfg, err
			}
		}
		cfg.Security = d
	}
	return cfg, nil
}

// association of a session, with keys that are for tests: both ends know them from its number.
func association(anchor bool, i uint32) ipsec.DataSA {
	half := func(side byte) ipsec.Half { // 16 octets of key and 4 of salt (RFC 4106 8.1)
		return ipsec.Half{Encryption: secret.Key(append(bytes.Repeat([]byte{side}, 16), byte(i>>24), byte(i>>16), byte(i>>8), byte(i)))}
	}
	sa := ipsec.DataSA{
		Handle: i, Peer: "bench", SPIIn: ipsec.DataSPI | 1<<24 | i, SPIOut: ipsec.DataSPI | 2<<24 | i, Negotiated: true, ESN: true,
		Keys: ipsec.Keys{Suite: "aes128-gcm", In: half(1), Out: half(2)},
	}
	if anchor {
		sa.SPIIn, sa.SPIOut, sa.Keys.In, sa.Keys.Out = sa.SPIOut, sa.SPIIn, sa.Keys.Out, sa.Keys.In
	}
	return sa
}

// steady is a TUN that tells nothing about its link. One listener of wireguard-go may say that it is down after another one said that
// it is up: the device forgets its session then, and the other end sends into it for seconds.
type steady struct{ tun.Device }

func (s steady) Events() <-chan tun.Event {
	go func() {
		for range s.Device.Events() {
		}
	}()
	return nil
}

// logged writes what the parent shows if nothing arrives: handshakes, above all.
func logged(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%v wireguard-go: %s\n", time.Now().Format("15:04:05.000"), fmt.Sprintf(format, args...))
}

func (e *end) openWireGuard() error {
	t, err := tun.CreateTUN(network.WireGuard, network.MTU)
	if err != nil {
		return err
	}
	e.wg = device.NewDevice(steady{t}, conn.NewDefaultBind(), &device.Logger{Verbosef: logged, Errorf: logged})
	if err := e.wg.IpcSet(e.open.WireGuard); err != nil {
		return err
	}
	return e.wg.Up()
}
