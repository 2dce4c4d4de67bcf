package ebpf

import (
	"encoding/binary"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"kedge/internal/dataplane/user"
)

// Left is what a plane has in the directory of its Config.Pin when its process has ended without ending its programs.
type Left struct {
	dir    string
	until  time.Duration // of the monotonic clock
	device int           // index of its device, 0 = none
	access []int         // indices of its access links
	locals []netip.Addr  // ends of its tunnels
}

// Look finds out what is in a directory; nil if it is of another version, or torn: nobody adopts it.
func Look(dir string) *Left {
	table := func(name string) *ebpf.Map {
		m, err := ebpf.LoadPinnedMap(filepath.Join(dir, layout, name), &ebpf.LoadPinOptions{ReadOnly: true})
		if err != nil {
			return nil
		}
		return m
	}
	c, ok := readControl(dir)
	if !ok {
		return nil
	}
	l := &Left{dir: dir, until: time.Duration(c.aliveUntil), device: int(c.tun)}
	if m := table("access_links"); m != nil {
		defer m.Close()
		for i := range m.MaxEntries() {
			if b, err := m.LookupBytes(i); err == nil && len(b) >= 4 {
				if index := binary.NativeEndian.Uint32(b); index != 0 {
					l.access = append(l.access, int(index))
				}
			}
		}
	}
	if m := table("locals"); m != nil {
		defer m.Close()
		var a addr
		for all := m.Iterate(); all.Next(&a, new(uint8)); {
			l.locals = append(l.locals, a.netip())
		}
	}
	return l
}

func readControl(dir string) (c control, ok bool) {
	m, err := ebpf.LoadPinnedMap(filepath.Join(dir, layout, "control"), &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		return c, false
	}
	defer m.Close()
	b, err := m.LookupBytes(uint32(0))
	if err != nil || len(b) < int(unsafe.Offsetof(c.peersMask)) {
		return c, false
	}
	c.aliveUntil = binary.NativeEndian.Uint64(b)
	c.tun = binary.NativeEndian.Uint32(b[unsafe.Offsetof(c.tun):])
	return c, true
}

// Goes reports whether the programs still forward, and no process has adopted them since Look.
func (l *Left) Goes() bool {
	c, ok := readControl(l.dir)
	return ok && time.Duration(c.aliveUntil) == l.until && Forwards(l.dir)
}

// Ends is how long they go on.
func (l *Left) Ends() time.Duration { return max(l.until-clockOf(unix.CLOCK_MONOTONIC), 0) }

// Device is the name of its device in the network namespace of the calling thread, "" = it has none, or that went.
func (l *Left) Device() string {
	if l.device == 0 {
		return ""
	}
	i, err := net.InterfaceByIndex(l.device)
	if err != nil {
		return ""
	}
	return i.Name
}

// Meets reports whether it forwards what a plane of this config is to forward: what goes into the same device, comes by the same
// access link, or by a tunnel that ends at the same address.
func (l *Left) Meets(c *user.Config) bool {
	if c.Role != user.Gateway && c.Device != "" && l.Device() == c.Device {
		return true
	}
	for _, a := range c.Access {
		index := a.If
		if i, err := net.InterfaceByName(a.Name); index == 0 && err == nil {
			index = i.Index
		}
		if index != 0 && slices.Contains(l.access, index) {
			return true
		}
	}
	return slices.ContainsFunc(c.Local, func(a netip.Addr) bool { return slices.Contains(l.locals, a) })
}
