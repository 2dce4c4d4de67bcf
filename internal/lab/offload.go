package lab

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"kedge/internal/system/netns"
)

// noOffload switches off transmit checksum and segmentation offload of an interface, so that frames on the lab's wires are
// complete, as a tap on a real wire would see them.
func noOffload(ns *netns.NS, ifname string) error {
	return ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for _, cmd := range []uint32{unix.ETHTOOL_SGSO, unix.ETHTOOL_STSO, unix.ETHTOOL_STXCSUM} {
			if err := ethtoolOff(fd, ifname, cmd); err != nil && err != unix.EOPNOTSUPP {
				return fmt.Errorf("namespace %s: %s: offload off: %w", ns.Name, ifname, err)
			}
		}
		return nil
	})
}

// ethtoolOff sets one flag to 0 by SIOCETHTOOL (ethtool_value in linux/ethtool.h).
func ethtoolOff(fd int, ifname string, cmd uint32) error {
	val := struct{ cmd, data uint32 }{cmd, 0}
	var req struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(req.name[:unix.IFNAMSIZ-1], ifname)
	req.data = unsafe.Pointer(&val)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
	runtime.KeepAlive(&val)
	if errno != 0 {
		return errno
	}
	return nil
}
