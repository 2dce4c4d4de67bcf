package network

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"kedge/internal/system/netns"
)

// Segment makes the tunnel's link cut super packets before they leave, in both directions, as a link without segmentation
// offload does; or lets it carry them whole again.
func (n *Network) Segment(cut bool) error {
	on := uint32(1)
	if cut {
		on = 0
	}
	return errors.Join(offload(n.Gateway, CoreLink, on), offload(n.Anchor, CoreLink, on))
}

// offload sets generic and TCP segmentation offload by SIOCETHTOOL (struct ethtool_value in linux/ethtool.h).
func offload(ns *netns.NS, link string, on uint32) error {
	return ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for _, cmd := range []uint32{unix.ETHTOOL_SGSO, unix.ETHTOOL_STSO} {
			value := struct{ cmd, data uint32 }{cmd, on}
			var req struct {
				name [unix.IFNAMSIZ]byte
				data unsafe.Pointer
				_    [16]byte
			}
			copy(req.name[:unix.IFNAMSIZ-1], link)
			req.data = unsafe.Pointer(&value)
			_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
			runtime.KeepAlive(&value)
			if errno != 0 {
				return fmt.Errorf("segmentation offload of %s: %w", link, errno)
			}
		}
		return nil
	})
}
