package lab

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// wgDevice is the interface of a WireGuard tunnel on the host.
const wgDevice = "wg0"

// wgPort is where the server of the first one listens.
const wgPort = 51820

// startWireGuard gives a host a WireGuard tunnel to its server, for comparison: made of wireguard-go by the program wgpeer.
func (r *Run) startWireGuard(ctx context.Context, n *node) error {
	w := n.spec.WireGuard
	server := r.node(w.Server)
	if r.opt.WireGuard == "" {
		return errors.New("wgpeer is missing: go build -o bin/wgpeer ./internal/lab/wgpeer")
	}
	a, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	b, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	// Each tunnel of a server has a device and a port of its own.
	k := r.tunnels
	r.tunnels++
	port := uint16(wgPort + k)
	at := netip.AddrPortFrom(server.addrOf(w.Endpoint == "v4"), port)
	here := fmt.Sprintf("private_key=%x\npublic_key=%x\nendpoint=%s\npersistent_keepalive_interval=25\nallowed_ip=0.0.0.0/0\nallowed_ip=::/0\n", a.Bytes(), b.PublicKey().Bytes(), at)
	there := fmt.Sprintf("private_key=%x\nlisten_port=%d\npublic_key=%x\nallowed_ip=%s\n", b.Bytes(), port, a.PublicKey().Bytes(), w.Address.Masked())
	device := map[*node]string{server: fmt.Sprintf("wgs%d", k), n: wgDevice}
	for x, text := range map[*node]string{server: there, n: here} {
		dir, err := r.workDir(x)
		if err != nil {
			return err
		}
		file, log := filepath.Join(dir, device[x]+".conf"), filepath.Join(r.dir, x.name+"."+device[x]+".log")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return err
		}
		p, err := start(x.ns, x.name+" wgpeer", log, r.opt.WireGuard, "-interface", device[x], "-config", file)
		if err != nil {
			return err
		}
		r.others = append(r.others, p)
		if err := poll(ctx, 5*time.Second, func() bool { return strings.Contains(tail(log, 1), "ready") || !p.running() }); err != nil || !p.running() {
			return fmt.Errorf("%s: wgpeer: %v\n%s", x.name, errors.Join(err, p.err), tail(log, 5))
		}
		if err := x.ns.Up(device[x]); err != nil {
			return err
		}
	}
	routes := append([]netip.Prefix(nil), w.To...)
	if err := n.ns.AddAddr(wgDevice, w.Address); err != nil {
		return err
	}
	for _, p := range routes {
		if err := n.ns.Route(p, netip.Addr{}, wgDevice); err != nil {
			return err
		}
	}
	return server.ns.Route(w.Address.Masked(), netip.Addr{}, device[server])
}
