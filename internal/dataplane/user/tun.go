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

var errInUse = errors.New("another process has it: is Kedge running already?")

// openTUN makes the device of an anchor or node, or adopts one that persisted: no packet information, no offloads, so that each
// read is one packet of the size on the wire.
func (p *Plane) openTUN() error {
	name, node := p.cfg.Device, p.cfg.Role == Node
	old, err := netlink.LinkByName(name)
	adopted := err == nil
	if adopted && node && old.Attrs().Alias != Tag {
		return fmt.Errorf("data plane: there is an interface %s that Kedge did not make: remove it, or name another device", name)
	}
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
			err = errInUse
		}
		return fail("create", err)
	}
	if node {
		persist := 0
		if p.cfg.Persist {
			persist = 1
		}
		if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, persist); err != nil {
			return fail("persist", err)
		}
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fail("find", err)
	}
	// Before it comes up, or the kernel starts to solicit routers on it.
	// IPv6 may be switched off for new interfaces; this one has IPv6 addresses.
	settings := [][2]string{{"ipv6/conf/" + name + "/addr_gen_mode", "1"}, {"ipv6/conf/" + name + "/disable_ipv6", "0"}, {"ipv6/conf/" + name + "/accept_ra", "0"}, {"ipv4/conf/" + name + "/rp_filter", "0"}}
	if !node {
		settings = append(settings, [2]string{"ipv4/conf/" + name + "/send_redirects", "0"}, [2]string{"ipv4/conf/" + name + "/forwarding", "1"})
	}
	for _, s := range settings {
		if err := setSysctl(s[0], s[1]); err != nil {
			return fail("sysctl", err)
		}
	}
	if !node {
		// A redirect is sent where the interface or "all" allows it; with this, each interface decides for itself.
		if err := p.swapSysctl(&p.undo, "ipv4/conf/all/send_redirects", "0"); err != nil {
			return fail("sysctl", err)
		}
	}
	if err := netlink.LinkSetAlias(link, Tag); err != nil {
		return fail("alias", err)
	}
	if !adopted || !node {
		if err := netlink.LinkSetMTU(link, p.deviceMTU()); err != nil {
			return fail("MTU", err)
		}
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

// deviceMTU of a new device: an anchor's hands everything over; the applications of a node take theirs from it, and what every
// tunnel carries is right until its machine knows more.
func (p *Plane) deviceMTU() int {
	switch {
	case p.cfg.DeviceMTU != 0:
		return p.cfg.DeviceMTU
	case p.cfg.Role == Node:
		return ip.MinMTU6
	}
	return ip.MaxPacket
}

// RemoveDevice removes a node's persistent device with its addresses and routes; a plane that has it fails. It is no error if
// there is none, but one if the interface is not Kedge's.
func RemoveDevice(name string) error {
	link, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err == nil && (link.Type() != "tuntap" && link.Type() != "tun" || link.Attrs().Alias != Tag) {
		err = errors.New("it is not one that Kedge made")
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil {
		return fmt.Errorf("data plane: remove device %s: %w", name, err)
	}
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
			_ = p.send(out, b) // counted
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
