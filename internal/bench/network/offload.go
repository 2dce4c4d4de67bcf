package network

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"kedge/internal/system/netns"
)

// offloads are the features that let a link carry super packets; the kernel cuts what it cannot.
var offloads = map[string]bool{
	"tx-generic-segmentation": true, "tx-tcp-segmentation": true, "tx-tcp6-segmentation": true, "tx-tcp-ecn-segmentation": true,
	"tx-tcp-mangleid-segmentation": true, "tx-udp-segmentation": true, "tx-udp_tnl-segmentation": true, "tx-udp_tnl-csum-segmentation": true,
	"tx-gre-segmentation": true, "tx-gre-csum-segmentation": true, "tx-ipxip4-segmentation": true, "tx-ipxip6-segmentation": true, "tx-gso-list": true,
	"tx-gso-partial": true,
}

// Segment makes the tunnel's link cut super packets before they leave, in both directions, as a link without segmentation
// offload does; or lets it carry them whole again.
func (n *Network) Segment(cut bool) error {
	return errors.Join(segment(n.Gateway, CoreLink, cut), segment(n.Anchor, CoreLink, cut))
}

func segment(ns *netns.NS, link string, cut bool) error {
	return ns.Do(func() error {
		e, err := openEthtool(link)
		if err != nil {
			return err
		}
		defer unix.Close(e.fd)
		names, err := e.features()
		if err != nil {
			return err
		}
		return e.set(names, func(name string) (want, ask bool) { return !cut, offloads[name] })
	})
}

// ethtool talks SIOCETHTOOL to one link (linux/ethtool.h).
type ethtool struct {
	fd   int
	link string
}

const (
	setOfFeatures = 4  // ETH_SS_FEATURES
	nameLen       = 32 // ETH_GSTRING_LEN
)

func openEthtool(link string) (*ethtool, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	return &ethtool{fd, link}, err
}

func (e *ethtool) call(command uint32, b unsafe.Pointer) error {
	var req struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(req.name[:unix.IFNAMSIZ-1], e.link)
	req.data = b
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(e.fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
	runtime.KeepAlive(b)
	if errno != 0 {
		return fmt.Errorf("%s: ethtool command %#x: %w", e.link, command, errno)
	}
	return nil
}

// features are the names of the kernel's features by their number.
func (e *ethtool) features() ([]string, error) {
	info := struct { // ethtool_sset_info
		cmd, _ uint32
		mask   uint64
		n      [2]uint32
	}{cmd: unix.ETHTOOL_GSSET_INFO, mask: 1 << setOfFeatures}
	if err := e.call(info.cmd, unsafe.Pointer(&info)); err != nil {
		return nil, err
	}
	n := int(info.n[0])
	b := make([]uint32, 3+n*nameLen/4) // struct ethtool_gstrings
	b[0], b[1], b[2] = unix.ETHTOOL_GSTRINGS, setOfFeatures, uint32(n)
	if err := e.call(b[0], unsafe.Pointer(&b[0])); err != nil {
		return nil, err
	}
	text := unsafe.Slice((*byte)(unsafe.Pointer(&b[3:][0])), n*nameLen)
	names := make([]string, n)
	for i := range names {
		names[i], _, _ = strings.Cut(string(text[i*nameLen:(i+1)*nameLen]), "\x00")
	}
	return names, nil
}

// set asks for features; those that the link cannot change stay.
func (e *ethtool) set(names []string, of func(string) (want, ask bool)) error {
	blocks := (len(names) + 31) / 32
	b := make([]uint32, 2+2*blocks) // struct ethtool_sfeatures: valid and requested
	b[0], b[1] = unix.ETHTOOL_SFEATURES, uint32(blocks)
	for i, name := range names {
		if want, ask := of(name); ask {
			b[2+i/32*2] |= 1 << (i % 32)
			if want {
				b[3+i/32*2] |= 1 << (i % 32)
			}
		}
	}
	return e.call(b[0], unsafe.Pointer(&b[0]))
}

// active are the features that are on.
func (e *ethtool) active(names []string) (map[string]bool, error) {
	blocks := (len(names) + 31) / 32
	b := make([]uint32, 2+4*blocks) // struct ethtool_gfeatures: available, requested, active, never changed
	b[0], b[1] = unix.ETHTOOL_GFEATURES, uint32(blocks)
	if err := e.call(b[0], unsafe.Pointer(&b[0])); err != nil {
		return nil, err
	}
	on := map[string]bool{}
	for i, name := range names {
		on[name] = b[4+i/32*4]&(1<<(i%32)) != 0
	}
	return on, nil
}
