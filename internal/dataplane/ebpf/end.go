package ebpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// End ends the plane and its programs, as Close does without Config.Pin: nothing forwards on, and nothing is left to adopt.
func (p *Plane) End() error {
	p.once.Do(func() {
		p.updating.Lock()
		defer p.updating.Unlock()
		p.ending = true
		p.closed = p.shut()
	})
	return p.closed
}

// Forwards reports whether the programs of a plane that ended without its process's doing may still forward: they are attached to an
// interface that is there, and their time is not over. dir is that of Config.Pin.
func Forwards(dir string) bool {
	c, ok := readControl(dir)
	if !ok || clockOf(unix.CLOCK_MONOTONIC) > time.Duration(c.aliveUntil) {
		return false // not ok: of another version, or torn: nobody adopts it
	}
	dir = filepath.Join(dir, layout)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	links, attached := 0, false
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), pinLink) {
			continue
		}
		links++
		l, err := link.LoadPinnedLink(filepath.Join(dir, e.Name()), nil)
		if err != nil {
			continue
		}
		info, err := l.Info()
		attached = attached || err == nil && info.TCX() != nil && info.TCX().Ifindex != 0
		l.Close()
	}
	return links == 0 || attached // without links they are attached by clsact, which is not to be seen from here
}

// Detach ends programs that a plane of a name (Config.Name) left on interfaces of this network namespace by clsact, where they go on
// without their process. Those of tcx end with their pins.
func Detach(name string) error {
	all, err := interfaces(netlink.LinkList)
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range all {
		gone := 0
		others := 0
		for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
			filters, err := netlink.FilterList(l, parent)
			if err != nil {
				continue // there is no such place to attach to
			}
			for _, f := range filters {
				if b, ok := f.(*netlink.BpfFilter); !ok || b.Name != nameOfFilter(name) {
					others++
					continue
				}
				gone++
				if err := netlink.FilterDel(f); err != nil && !errors.Is(err, unix.ENOENT) {
					errs = append(errs, fmt.Errorf("data plane: classifier of %s: %w", l.Attrs().Name, err))
				}
			}
		}
		if gone > 0 && others == 0 {
			_ = netlink.QdiscDel(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}})
		}
	}
	return errors.Join(errs...)
}

// Attached counts the programs that forward packets that come in by an interface of this network namespace: all by tcx, and Kedge's
// by clsact.
func Attached(name string) (n int, err error) {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return 0, err
	}
	if all, err := link.QueryPrograms(link.QueryOptions{Target: l.Attrs().Index, Attach: ebpf.AttachTCXIngress}); err == nil {
		n += len(all.Programs)
	}
	filters, err := netlink.FilterList(l, netlink.HANDLE_MIN_INGRESS)
	if err != nil {
		return n, nil // there is no clsact
	}
	for _, f := range filters {
		if b, ok := f.(*netlink.BpfFilter); ok && (b.Name == filterName || strings.HasPrefix(b.Name, filterName+" ")) {
			n++
		}
	}
	return n, nil
}
