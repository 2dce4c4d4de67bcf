package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"kedge/internal/bench/way"
	"kedge/internal/system/netns"
)

// Tap sees what is on the gateway's link to the core, both ways. While one is open the kernel copies packets to it, so no time is
// taken with one.
type Tap struct {
	fd  int
	way way.Way
}

// enough of a packet for the headers of any way, octets.
const enough = 256

// Watch opens a tap.
func (n *Network) Watch(w way.Way) (*Tap, error) { return watch(n.Gateway, w) }

func watch(ns *netns.NS, w way.Way) (*Tap, error) {
	t := &Tap{fd: -1, way: w}
	err := ns.Do(func() (err error) {
		index := ns.Index(CoreLink)
		all := binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL})
		if t.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		tv := unix.NsecToTimeval(int64(20 * time.Millisecond))
		return errors.Join(unix.SetsockoptTimeval(t.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv),
			unix.Bind(t.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index}))
	})
	if err != nil {
		t.Close()
		return nil, fmt.Errorf("watch the core: %w", err)
	}
	return t, nil
}

// Verify reads packets until one is carried as the way says: nil then. It fails at the first one that is carried otherwise, and if
// none was seen when ctx is done.
func (t *Tap) Verify(ctx context.Context) error {
	b := make([]byte, enough)
	for ctx.Err() == nil {
		n, from, err := unix.Recvfrom(t.fd, b, 0)
		switch {
		case err == unix.EINTR || err == unix.EAGAIN:
			continue
		case err != nil:
			return fmt.Errorf("watch the core: %w", err)
		}
		if l, ok := from.(*unix.SockaddrLinklayer); !ok || l.Protocol != proto(unix.ETH_P_IP) && l.Protocol != proto(unix.ETH_P_IPV6) {
			continue
		}
		if err := t.way.Check(b[:n]); !errors.Is(err, way.ErrOther) {
			return err
		}
	}
	return errors.New("no packet of the traffic was seen in the core")
}

func proto(p uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], p)
	return binary.NativeEndian.Uint16(b[:])
}

// Close ends it.
func (t *Tap) Close() {
	if t.fd >= 0 {
		_ = unix.Close(t.fd)
		t.fd = -1
	}
}
