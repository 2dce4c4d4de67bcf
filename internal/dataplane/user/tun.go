package user

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kedge/internal/dataplane/mem"
	"kedge/wire"
	"kedge/wire/ip"
)

// Tag is the alias of devices that Kedge made, so that a restart can tell them from others.
const Tag = "kedge"

// openTUN makes the anchor's device: no packet information, no offloads, so that each read is one packet of the size on the wire.
func (p *Plane) openTUN() error {
	name := p.cfg.Device
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("data plane: /dev/net/tun: %w", err)
	}
	fail := func(what string, err error) error {
		unix.Close(fd)
		return fmt.Errorf("data plane: device %s: %s: %w", name, what, err)
	}
	req, err := unix.NewIfreq(name)
	if err != nil {
		return fail("name", err)
	}
	req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		if errors.Is(err, unix.EBUSY) {
			err = errors.New("another process has it: is Kedge running already?")
		}
		return fail("create", err)
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fail("find", err)
	}
	// Before it comes up, or the kernel starts to solicit routers on it.
	for _, s := range [][2]string{
		{"ipv6/conf/" + name + "/addr_gen_mode", "1"}, {"ipv6/conf/" + name + "/accept_ra", "0"},
		{"ipv4/conf/" + name + "/send_redirects", "0"}, {"ipv4/conf/" + name + "/rp_filter", "0"},
		{"ipv4/conf/" + name + "/forwarding", "1"},
	} {
		if err := setSysctl(s[0], s[1]); err != nil {
			return fail("sysctl", err)
		}
	}
	// A redirect is sent where the interface or "all" allows it; with this, each interface decides for itself.
	if err := p.swapSysctl(&p.undo, "ipv4/conf/all/send_redirects", "0"); err != nil {
		return fail("sysctl", err)
	}
	if err := netlink.LinkSetAlias(link, Tag); err != nil {
		return fail("alias", err)
	}
	if err := netlink.LinkSetMTU(link, ip.MaxPacket); err != nil {
		return fail("MTU", err)
	}
	if err := netlink.LinkSetTxQLen(link, 4096); err != nil {
		return fail("queue", err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fail("up", err)
	}
	p.tun = os.NewFile(uintptr(fd), name)
	p.goes(p.readTUN)
	return nil
}

// lookAtTUN is how often an idle device is read from. The kernel wakes the reader of a device that is removed a moment before reading
// from it fails, and not again.
const lookAtTUN = time.Second

// readTUN reads until there is nothing more, or a batch is full, and then sends.
func (p *Plane) readTUN() {
	conn, err := p.tun.SyscallConn()
	if err != nil {
		return
	}
	out, b := new(mem.Out), newSendBatch()
	buf := make([]byte, ip.MaxPacket+1)
	gone := false
	_ = p.tun.SetReadDeadline(time.Now().Add(lookAtTUN))
	for {
		err := conn.Read(func(fd uintptr) bool {
			out.Reset()
			got := 0
			for now := p.now(); got < batchSize; got++ {
				n, err := unix.Read(int(fd), buf)
				if errors.Is(err, unix.EBADFD) {
					gone = true
					break
				}
				if err != nil {
					if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
						p.Count(wire.Malformed)
					}
					break
				}
				if n >= ip.IPv6Len && buf[0]>>4 == 6 && buf[24] == 0xff {
					continue // the kernel's own, MLD: nobody's packet, so not counted as one
				}
				// Whatever an anchor sends of it is a copy, so the buffer is free again.
				p.Native(now, mem.Native{B: buf[:n]}, out)
			}
			p.send(out, b)
			return got > 0 || gone
		})
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			_ = p.tun.SetReadDeadline(time.Now().Add(lookAtTUN))
		case err != nil || gone:
			// Closed, or somebody removed it, and its routes with it. The runtime calls the latter "not pollable" if it sees it first.
			if !p.closing.Load() {
				p.fail(fmt.Errorf("data plane: device %s was removed: start again", p.cfg.Device))
			}
			return
		}
	}
}
