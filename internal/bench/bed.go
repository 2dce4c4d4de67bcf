package bench

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"fmt"
	"net/netip"
	"time"

	"kedge/internal/bench/network"
	"kedge/internal/bench/peer"
	"kedge/internal/bench/traffic"
	"kedge/internal/bench/way"
	"kedge/internal/system/netns"
)

// bed is a way with the network that it is measured in.
type bed struct {
	way     way.Way
	net     *network.Network
	peers   []*peer.Process // gateway, anchor
	packets map[int]*traffic.UDP
	hint    map[int]float64
	cut     bool
}

// peerArgs make this program a peer.
var peerArgs = []string{"bench", "peer"}

// openBed builds the network of a way and fills it with sessions. Its processes are frozen.
func openBed(w way.Way) (_ *bed, err error) {
	b := &bed{way: w, packets: map[int]*traffic.UDP{}, hint: map[int]float64{}}
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
		keys, err := wireGuardKeys()
		if err != nil {
			return nil, err
		}
		for i, ns := range []*netns.NS{b.net.Gateway, b.net.Anchor} {
			p, err := peer.Start(ns, peerArgs...)
			if err != nil {
				return nil, err
			}
			b.peers = append(b.peers, p)
			if _, err := p.Ask(peer.Request{Open: &peer.Open{Way: w, Anchor: i == 1, WireGuard: keys[i]}}); err != nil {
				return nil, err
			}
		}
	}
	if err := b.net.Finish(w); err != nil {
		return nil, err
	}
	return b, b.reach()
}

// reach sends until all of it arrives: for a moment after links came up the kernel drops what is sent on them, and a tunnel of
// WireGuard begins with a handshake.
func (b *bed) reach() error {
	u, err := b.udp(64)
	if err != nil {
		return err
	}
	var p traffic.Probe
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
		if p, err = u.Send(context.Background(), 2000, 20*time.Millisecond, nil); err != nil {
			return err
		}
		if p.Sent > 0 && p.Received == p.Sent {
			return nil
		}
	}
	return fmt.Errorf("%d of %d packets arrive", p.Received, p.Sent)
}

// wireGuardKeys are the configurations of gateway and anchor.
func wireGuardKeys() (text [2]string, err error) {
	var keys [2]*ecdh.PrivateKey
	for i := range keys {
		if keys[i], err = ecdh.X25519().GenerateKey(rand.Reader); err != nil {
			return text, err
		}
	}
	const port = 51820
	for i, remote := range []netip.Addr{way.Anchor4, way.Gateway4} {
		text[i] = fmt.Sprintf("private_key=%x\nlisten_port=%d\npublic_key=%x\nendpoint=%v\n", keys[i].Bytes(), port, keys[1-i].PublicKey().Bytes(), netip.AddrPortFrom(remote, port))
	}
	text[0] += "allowed_ip=0.0.0.0/0\nallowed_ip=::/0\n"
	text[1] += fmt.Sprintf("allowed_ip=%v\nallowed_ip=%v\n", way.Home6, way.Home4)
	return text, nil
}

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
	u, err := traffic.NewUDP(b.net.CN, way.CN6, b.net.Host, to, size)
	if err != nil {
		return nil, err
	}
	b.packets[size] = u
	return u, nil
}

func (b *bed) tcp(six bool, streams int, d time.Duration) traffic.TCP {
	to, four := way.HomeOf(1)
	if !six {
		to = four
	}
	return traffic.TCP{From: b.net.CN, At: b.net.Host, To: netip.AddrPortFrom(to, 5201), Streams: streams, Time: d}
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
