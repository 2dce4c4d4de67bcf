package user

import (
	"fmt"
	"os"
	"strings"
)

// setSysctl writes net.* of the caller's network namespace.
func setSysctl(name, value string) error {
	if err := os.WriteFile("/proc/sys/net/"+name, []byte(value), 0); err != nil {
		return fmt.Errorf("net/%s = %s: %w", name, value, err)
	}
	return nil
}

// undo is what puts settings back, in the order in which they were made.
type undo []func()

// run puts back, newest first; a second run does nothing.
func (u *undo) run() {
	for i := len(*u) - 1; i >= 0; i-- {
		(*u)[i]()
	}
	*u = nil
}

// swapSysctl is setSysctl that undo takes back.
func (p *Plane) swapSysctl(u *undo, name, value string) error {
	if p.cfg.Sysctl != nil {
		return p.cfg.Sysctl("net/"+name, value)
	}
	f, err := os.OpenFile("/proc/sys/net/"+name, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("net/%s = %s: %w", name, value, err)
	}
	var old [64]byte
	n, err := f.ReadAt(old[:], 0)
	if n == 0 && err != nil {
		f.Close()
		return fmt.Errorf("net/%s: %w", name, err)
	}
	was := strings.TrimSpace(string(old[:n]))
	if _, err := f.WriteAt([]byte(value), 0); err != nil {
		f.Close()
		return fmt.Errorf("net/%s = %s: %w", name, value, err)
	}
	// The file stays open: it belongs to this namespace and interface, whatever thread closes the plane.
	*u = append(*u, func() {
		_, _ = f.WriteAt([]byte(was), 0) // the interface may be gone
		f.Close()
	})
	return nil
}
