//go:build linux

// Package ethtool switches offloads of network interfaces, by the names that the kernel has for them (ethtool -k). Interfaces are
// those of the calling thread's network namespace.
package ethtool

import (
	"fmt"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Receive aggregation (GRO): an interface puts segments of a stream together.
const ReceiveAggregation = "rx-gro"

// TCPSegmentation are the features that let a link carry super packets of TCP (TSO), Segmentation those for super packets of any
// kind: the kernel cuts what a link cannot carry. Checksums leave those of transport protocols to the link.
var (
	TCPSegmentation = []string{"tx-tcp-segmentation", "tx-tcp6-segmentation", "tx-tcp-ecn-segmentation", "tx-tcp-mangleid-segmentation"}
	Segmentation    = append([]string{
		"tx-generic-segmentation", "tx-udp-segmentation", "tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation", "tx-gre-segmentation",
		"tx-gre-csum-segmentation", "tx-ipxip4-segmentation", "tx-ipxip6-segmentation", "tx-gso-list", "tx-gso-partial",
	}, TCPSegmentation...)
	Checksums = []string{"tx-checksum-ip-generic", "tx-checksum-ipv4", "tx-checksum-ipv6", "tx-checksum-sctp"}
)

// Set switches features on or off. Those that the link cannot change stay as they are; an error says that it has no features at all.
func Set(link string, on bool, features ...string) error {
	l, err := open(link)
	if err != nil {
		return err
	}
	defer unix.Close(l.fd)
	b := make([]uint32, 2+2*l.blocks()) // struct ethtool_sfeatures: valid and requested
	b[0], b[1] = unix.ETHTOOL_SFEATURES, uint32(l.blocks())
	for _, f := range features {
		i, known := l.features[f]
		if !known {
			continue
		}
		b[2+i/32*2] |= 1 << (i % 32)
		if on {
			b[3+i/32*2] |= 1 << (i % 32)
		}
	}
	return l.call(b[0], unsafe.Pointer(&b[0]))
}

// Active says of every feature that this kernel has a name for whether it is on.
func Active(link string) (map[string]bool, error) {
	l, err := open(link)
	if err != nil {
		return nil, err
	}
	defer unix.Close(l.fd)
	b := make([]uint32, 2+4*l.blocks()) // struct ethtool_gfeatures: available, requested, active, never changed
	b[0], b[1] = unix.ETHTOOL_GFEATURES, uint32(l.blocks())
	if err := l.call(b[0], unsafe.Pointer(&b[0])); err != nil {
		return nil, err
	}
	on := make(map[string]bool, len(l.features))
	for name, i := range l.features {
		on[name] = b[4+i/32*4]&(1<<(i%32)) != 0
	}
	return on, nil
}

// link is one interface that SIOCETHTOOL talks to (linux/ethtool.h), with the numbers of the kernel's features.
type link struct {
	fd       int
	name     string
	features map[string]int
}

const (
	setOfFeatures = 4  // ETH_SS_FEATURES
	nameLen       = 32 // ETH_GSTRING_LEN
)

func open(name string) (_ *link, err error) {
	l := &link{name: name, features: map[string]int{}}
	if l.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return nil, fmt.Errorf("%s: ethtool: %w", name, err)
	}
	defer func() {
		if err != nil {
			unix.Close(l.fd)
		}
	}()
	info := struct { // ethtool_sset_info
		cmd, _ uint32
		mask   uint64
		n      [2]uint32
	}{cmd: unix.ETHTOOL_GSSET_INFO, mask: 1 << setOfFeatures}
	if err := l.call(info.cmd, unsafe.Pointer(&info)); err != nil {
		return nil, err
	}
	n := int(info.n[0])
	b := make([]uint32, 3+n*nameLen/4) // struct ethtool_gstrings
	b[0], b[1], b[2] = unix.ETHTOOL_GSTRINGS, setOfFeatures, uint32(n)
	if err := l.call(b[0], unsafe.Pointer(&b[0])); err != nil {
		return nil, err
	}
	text := unsafe.Slice((*byte)(unsafe.Pointer(&b[3:][0])), n*nameLen)
	for i := range n {
		feature, _, _ := strings.Cut(string(text[i*nameLen:(i+1)*nameLen]), "\x00")
		l.features[feature] = i
	}
	return l, nil
}

func (l *link) blocks() int { return (len(l.features) + 31) / 32 }

func (l *link) call(command uint32, b unsafe.Pointer) error {
	var req struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(req.name[:unix.IFNAMSIZ-1], l.name)
	req.data = b
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(l.fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
	runtime.KeepAlive(b)
	if errno != 0 {
		return fmt.Errorf("%s: ethtool command %#x: %w", l.name, command, errno)
	}
	return nil
}
