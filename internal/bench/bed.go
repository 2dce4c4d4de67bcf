package bench

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"kedge/internal/bench/network"
	"kedge/internal/bench/peer"
	"kedge/internal/bench/traffic"
	"kedge/internal/bench/way"
	"kedge/internal/core"
	"kedge/internal/system/netns"
)

// bed is a way with the network that it is measured in.
type bed struct {
	way     way.Way
	net     *network.Network
	peers   []*peer.Process // gateway, anchor, second gateway
	packets map[int]*traffic.UDP
	hint    map[int]float64 // what the last search found, by size
	now     map[int]float64 // what the one of this round found
	cut     bool
	seen    peer.Answer // counters of the anchor when the sample began
}

// PeerArgs make this program a peer: those that run peer.Run.
var PeerArgs = []string{"bench", "peer"}

// anchor is the place of the anchor's process among a bed's.
const anchor = 1

// openBed builds the network of a way and fills it with sessions. Its processes run.
func openBed(ctx context.Context, w way.Way) (_ *bed, err error) {
	b := &bed{way: w, packets: map[int]*traffic.UDP{}, hint: map[int]float64{}, now: map[int]float64{}}
	defer func() {
		if err != nil {
			b.close()
			err = fmt.Errorf("%s: %w", w.Name(), err)
		}
	}()
	if b.net, err = network.New(w); err != nil {
		return nil, err
	}
	if w.Kedge() || w.Kind == way.WireGuard {
		if err := b.start(); err != nil {
			return nil, err
		}
	}
	if err := b.net.Finish(w); err != nil {
		return nil, err
	}
	return b, b.reach(ctx)
}

// start starts the processes.
func (b *bed) start() error {
	keys, err := wireGuardKeys()
	if err != nil {
		return err
	}
	for i, p := range []struct {
		ns *netns.NS
		at way.Side
	}{{b.net.Gateway, way.Gateway}, {b.net.Anchor, way.Anchor}, {b.net.Second, way.Second}} {
		if p.ns == nil {
			continue
		}
		proc, err := peer.Start(p.ns, PeerArgs...)
		if err != nil {
			return err
		}
		b.peers = append(b.peers, proc)
		if _, err := proc.Ask(peer.Request{Open: &peer.Open{Way: b.way, At: p.at, WireGuard: keys[i]}}); err != nil {
			return err
		}
	}
	return nil
}

// wireGuardKeys are the configurations of gateway and anchor.
func wireGuardKeys() (text [3]string, err error) {
	var keys [2]*ecdh.PrivateKey
	for i := range keys {
		if keys[i], err = ecdh.X25519().GenerateKey(rand.Reader); err != nil {
			return text, err
		}
	}
	for i, remote := range []netip.Addr{way.Anchor4, way.Gateway4} {
		text[i] = fmt.Sprintf("private_key=%x\nlisten_port=%d\npublic_key=%x\nendpoint=%v\n",
			keys[i].Bytes(), way.PortWireGuard, keys[1-i].PublicKey().Bytes(), netip.AddrPortFrom(remote, way.PortWireGuard))
	}
	text[0] += "allowed_ip=0.0.0.0/0\nallowed_ip=::/0\n"
	text[1] += fmt.Sprintf("allowed_ip=%v\nallowed_ip=%v\n", way.Home6, way.Home4)
	return text, nil
}

// reach sends until all of it arrives: for a moment after links came up the kernel drops what is sent on them, and a tunnel of
// WireGuard begins with a handshake, whose first message may be lost in that moment: the next one goes out 5 s later.
func (b *bed) reach(ctx context.Context) error {
	u, err := b.udp(64)
	if err != nil {
		return err
	}
	var p traffic.Probe
	for end := time.Now().Add(reachPatience); time.Now().Before(end); {
		if p, err = u.Send(ctx, 2000, 20*time.Millisecond, nil); err != nil {
			return err
		}
		if p.Sent > 0 && p.Received == p.Sent {
			return nil
		}
	}
	return fmt.Errorf("%d of %d packets arrive; %s", p.Received, p.Sent, b.drops())
}

// reachPatience: WireGuard takes 15 s to give a session up that the other end has forgotten, and shakes hands anew.
const reachPatience = 40 * time.Second

// freeze stops the processes of a way while others are measured.
func (b *bed) freeze(on bool) {
	for _, p := range b.peers {
		p.Freeze(on)
	}
}

// segment makes the tunnel's link cut super packets, or not.
func (b *bed) segment(cut bool) error {
	if b.cut == cut {
		return nil
	}
	b.cut = cut
	return b.net.Segment(cut)
}

// udp gives the sender of packets of a size, to random ones of the sessions.
func (b *bed) udp(size int) (*traffic.UDP, error) {
	if u := b.packets[size]; u != nil {
		return u, nil
	}
	to := make([]netip.Addr, max(1, b.way.Sessions))
	for i := range to {
		to[i], _ = way.HomeOf(i + 1)
	}
	router, err := b.net.Anchor.Link(network.NetLink)
	if err != nil {
		return nil, err
	}
	from := traffic.Sender{NS: b.net.CN, Link: network.HostLink, Source: way.CN6, Router: core.MAC(router.Attrs().HardwareAddr)}
	u, err := traffic.NewUDP(from, b.net.Host, to, size)
	if err != nil {
		return nil, err
	}
	b.packets[size] = u
	return u, nil
}

// tcp is streams to the host.
func (b *bed) tcp(six bool, streams int, d time.Duration) traffic.TCP {
	to, four := way.HomeOf(1)
	if !six {
		to = four
	}
	return traffic.TCP{From: b.net.CN, At: b.net.Host, To: netip.AddrPortFrom(to, 5201), Streams: streams, Time: d}
}

// pids of the processes.
func (b *bed) pids() (ids []int) {
	for _, p := range b.peers {
		ids = append(ids, p.PID())
	}
	return ids
}

// begin looks at the counters before a sample.
func (b *bed) begin() (err error) {
	if b.way.Kedge() {
		b.seen, err = b.peers[anchor].Ask(peer.Request{Count: true})
	}
	return err
}

// verify compares the counters after a sample: the plane must have carried packets. It says which part of those that it counted
// were not carried by programs in the kernel.
func (b *bed) verify() (slow float64, err error) {
	if !b.way.Kedge() {
		return 0, nil
	}
	is, err := b.peers[anchor].Ask(peer.Request{Count: true})
	if err != nil {
		return 0, err
	}
	packets := func(c core.Counter) float64 { return float64(c.PacketsIn + c.PacketsOut) }
	all := packets(is.Count) - packets(b.seen.Count)
	if all <= 0 {
		return 0, errors.New("the plane has counted no packet: something else carried them")
	}
	return (packets(is.Slow) - packets(b.seen.Slow)) / all, nil
}

// drops is what the planes dropped so far, or how tunnels of WireGuard came about, for messages.
func (b *bed) drops() string {
	var said []string
	for i, p := range b.peers {
		name := []string{"gateway", "anchor", "second gateway"}[i]
		if b.way.Kind == way.WireGuard {
			said = append(said, fmt.Sprintf("%s said: %s", name, p.Said()))
		} else if a, err := p.Ask(peer.Request{Count: true}); err == nil && len(a.Drops) > 0 {
			said = append(said, fmt.Sprintf("%s dropped %v", name, a.Drops))
		}
	}
	return strings.Join(said, "; ")
}

func (b *bed) close() {
	for _, u := range b.packets {
		u.Close()
	}
	for _, p := range b.peers {
		p.Close()
	}
	if b.net != nil {
		b.net.Close()
	}
}
