package user

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kedge/wire/ip"
)

// Tag is the alias of devices that Kedge made, so that a restart can tell them from others.
const Tag = "kedge"

// maxQueues of a device: more cores share them.
const maxQueues = 16

var errOneQueue = errors.New("the device was made with one queue")

var errInUse = errors.New("another process has it: is Kedge running already?")

// openTUN makes the device of an anchor or node, or adopts one that persisted: no packet information; with offloads,
// where the kernel has them.
func (p *Plane) openTUN() error {
	name, node := p.cfg.Device, p.cfg.Role == Node
	old, err := netlink.LinkByName(name)
	adopted := err == nil
	if adopted && node && old.Attrs().Alias != Tag {
		return fmt.Errorf("data plane: there is an interface %s that Kedge did not make: remove it, or name another device", name)
	}
	if err := p.claim(name); err != nil {
		return err
	}
	fd, flags, err := p.attach(name)
	if err != nil {
		return err
	}
	fail := func(what string, err error) error {
		unix.Close(fd)
		return fmt.Errorf("data plane: device %s: %s: %w", name, what, err)
	}
	if err := p.offloadTUN(fd); err != nil {
		return fail("offloads", err)
	}
	if node || p.cfg.Persist || adopted && old.Attrs().Alias == Tag {
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
	return p.openQueues(fd, flags)
}

// attach opens the device, with what it and the kernel can do.
func (p *Plane) attach(name string) (fd, flags int, err error) {
	has := func(flag int) func() error {
		return func() error {
			if known, err := tunFeatures(); err != nil || known&flag == 0 {
				return errors.Join(unix.EOPNOTSUPP, err)
			}
			return nil
		}
	}
	flags = unix.IFF_TUN | unix.IFF_NO_PI
	if p.vnet = p.try(TUNSuper, has(unix.IFF_VNET_HDR)); p.vnet {
		flags |= unix.IFF_VNET_HDR
	}
	if p.try(TUNQueues, has(unix.IFF_MULTI_QUEUE)) {
		flags |= unix.IFF_MULTI_QUEUE
	}
	fd, err = openTUN(name, flags)
	if errors.Is(err, unix.EINVAL) {
		// The device is there, and was made the other way: that can't be changed.
		flags ^= unix.IFF_MULTI_QUEUE
		if fd, err = openTUN(name, flags); err == nil && flags&unix.IFF_MULTI_QUEUE == 0 {
			p.learn(TUNQueues, errOneQueue)
		}
	}
	if err != nil {
		return -1, 0, fmt.Errorf("data plane: device %s: %w", name, err)
	}
	return fd, flags, nil
}

// tunFeatures are the flags that the kernel knows.
func tunFeatures() (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	v, err := unix.IoctlGetInt(fd, unix.TUNGETFEATURES)
	return v, err
}

// Offload flags of TUNSETOFFLOAD (linux/if_tun.h).
const (
	tunSegments  = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN
	tunDatagrams = unix.TUN_F_USO4 | unix.TUN_F_USO6
)

// offloadTUN says what may come in one piece. A device that persisted may have been told more.
func (p *Plane) offloadTUN(fd int) error {
	set := func(flags int) error { return unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, flags) }
	if !p.vnet {
		return set(0)
	}
	if p.try(TUNDatagrams, func() error { return set(tunSegments | tunDatagrams) }) {
		return nil
	}
	if err := set(tunSegments); err != nil {
		p.learn(TUNSuper, err)
		return set(0)
	}
	return nil
}

// openQueues opens the other queues, one for each core, and starts reading.
func (p *Plane) openQueues(fd, flags int) error {
	want := 1
	if flags&unix.IFF_MULTI_QUEUE != 0 {
		if want = p.cfg.Queues; want == 0 {
			want = min(runtime.GOMAXPROCS(0), maxQueues)
		}
	}
	for {
		q, err := newTUNQueue(fd, p.cfg.Device)
		if err != nil {
			unix.Close(fd)
			return fmt.Errorf("data plane: device %s: queue: %w", p.cfg.Device, err)
		}
		p.queues = append(p.queues, q)
		if len(p.queues) == want {
			break
		}
		if fd, err = openTUN(p.cfg.Device, flags); err != nil {
			return fmt.Errorf("data plane: device %s: queue %d: %w", p.cfg.Device, len(p.queues), err)
		}
	}
	for _, q := range p.queues {
		p.goes(func() { p.readTUN(q) })
	}
	return nil
}

// openTUN opens one queue of a device, and makes the device if it is not there.
func openTUN(name string, flags int) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("/dev/net/tun: %w", err)
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(uint16(flags))
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if errors.Is(err, unix.EBUSY) {
		err = errInUse
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
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

// RemoveDevice removes a persistent device with its addresses and routes; a plane that has it fails. It is no error if
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
