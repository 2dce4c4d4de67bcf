//go:build linux

// Package netns makes small networks on one machine out of Linux network namespaces: named namespaces as `ip netns` knows
// them, veth pairs, bridges, addresses, and code or commands run inside. Tests and the lab use it; the daemon does not.
//
// A network namespace is a property of an OS thread. Do locks its goroutine to a thread, enters, runs, and leaves again; a
// thread that cannot be brought back is thrown away. What is opened inside (sockets, netlink handles) stays in the
// namespace for good, so the usual pattern is: open inside Do, use outside. Goroutines started inside Do run outside of it.
//
// Everything here needs CAP_SYS_ADMIN and CAP_NET_ADMIN.
package netns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	vns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// dir is where `ip netns` looks for names.
const dir = "/run/netns"

// NS is one network namespace. Its methods may be called from several goroutines.
type NS struct {
	Name string // "" for Current
	fd   vns.NsHandle

	mu sync.Mutex
	nl *netlink.Handle
}

// New makes a namespace with loopback up. It fails with an error that Is os.ErrExist if the name is taken.
func New(name string) (*NS, error) {
	if name == "" || strings.ContainsRune(name, '/') || name[0] == '.' {
		return nil, fmt.Errorf("namespace name %q: want a plain file name", name)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("namespace %s: %w", name, err)
	}
	path := filepath.Join(dir, name)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return nil, fmt.Errorf("namespace %s: %w", name, err)
	}
	f.Close()
	// The name holds the namespace alive by a bind mount; the thread that made it is not needed afterwards.
	err = onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare: %w (CAP_SYS_ADMIN is needed)", err)
		}
		self := fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
		return unix.Mount(self, path, "bind", unix.MS_BIND, "")
	})
	if err != nil {
		os.Remove(path)
		return nil, fmt.Errorf("namespace %s: %w", name, err)
	}
	n, err := Open(name)
	if err == nil {
		err = n.Up("lo")
	}
	if err != nil {
		return nil, errors.Join(err, Delete(name))
	}
	return n, nil
}

// Open opens an existing named namespace.
func Open(name string) (*NS, error) {
	fd, err := vns.GetFromPath(filepath.Join(dir, name))
	if err != nil {
		return nil, fmt.Errorf("namespace %s: %w", name, err)
	}
	return &NS{Name: name, fd: fd}, nil
}

// Current is the namespace of the calling thread, usually the one that the process was started in.
func Current() (*NS, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	fd, err := vns.Get()
	if err != nil {
		return nil, fmt.Errorf("current network namespace: %w", err)
	}
	return &NS{fd: fd}, nil
}

// List names the existing namespaces.
func List() ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

// Delete removes the name. The namespace itself, with its links, goes when its last process and socket are gone. A name
// that does not exist is no error.
func Delete(name string) error {
	path := filepath.Join(dir, name)
	// A crash between the file and the mount leaves a plain file: EINVAL.
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && err != unix.EINVAL && err != unix.ENOENT {
		return fmt.Errorf("namespace %s: unmount: %w", name, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("namespace %s: %w", name, err)
	}
	return nil
}

// Close releases the handle; the name stays.
func (n *NS) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.nl != nil {
		n.nl.Close()
		n.nl = nil
	}
	if n.fd < 0 {
		return nil
	}
	return n.fd.Close() // sets fd to -1
}

// Delete closes the handle and removes the name.
func (n *NS) Delete() error {
	err := n.Close()
	if n.Name == "" {
		return err
	}
	return errors.Join(err, Delete(n.Name))
}

// Do runs f inside the namespace, on a locked thread. Sockets that f opens and processes that it starts belong to the
// namespace; goroutines that it starts do not. A panic of f reaches the caller.
func (n *NS) Do(f func() error) error {
	fd, err := n.dup()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return onThread(func() error {
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter namespace %s: %w", n.Name, err)
		}
		return f()
	})
}

// dup is a descriptor that a Close meanwhile does not pull away.
func (n *NS) dup() (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	fd, err := unix.FcntlInt(uintptr(n.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("namespace %s: closed: %w", n.Name, err)
	}
	return fd, nil
}

// onThread runs f on a locked thread and brings the thread back to the namespace that it had. It uses a goroutine of its
// own so that a thread that cannot be brought back dies with it, and not with the caller.
func onThread(f func() error) error {
	type result struct {
		err      error
		panicked any
	}
	done := make(chan result, 1)
	go func() {
		var r result
		defer func() { done <- r }()
		runtime.LockOSThread()
		home, err := vns.Get()
		if err != nil {
			r.err = fmt.Errorf("current network namespace: %w", err)
			return
		}
		defer home.Close()
		func() {
			defer func() { r.panicked = recover() }()
			r.err = f()
		}()
		// Only a thread known to be home may serve other goroutines again; staying locked throws it away.
		if unix.Setns(int(home), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
	}()
	r := <-done
	if r.panicked != nil {
		panic(r.panicked)
	}
	return r.err
}

// Start starts cmd inside the namespace. Unlike `ip netns exec` it leaves the mounts alone: /sys shows the caller's links.
func (n *NS) Start(cmd *exec.Cmd) error { return n.Do(cmd.Start) }

// Run runs a command inside the namespace to its end and gives its standard output; the error holds standard error.
func (n *NS) Run(ctx context.Context, name string, args ...string) (string, error) {
	return n.run(exec.CommandContext(ctx, name, args...))
}

// IP runs lines of ip(8) inside the namespace, all by one process, which ends at the first that fails.
func (n *NS) IP(ctx context.Context, lines ...string) error {
	cmd := exec.CommandContext(ctx, "ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	_, err := n.run(cmd)
	return err
}

func (n *NS) run(cmd *exec.Cmd) (string, error) {
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := n.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		err = fmt.Errorf("%s: %s: %w: %s", n.Name, strings.Join(cmd.Args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.String(), err
}

// Sysctl sets a network sysctl of the namespace: Sysctl("net.ipv6.conf.all.forwarding", "1"). A slash separates as well, for
// interface names that hold a dot.
func (n *NS) Sysctl(key, value string) error {
	path := sysctlPath(key)
	return n.Do(func() error {
		if err := os.WriteFile(path, []byte(value), 0); err != nil {
			return fmt.Errorf("namespace %s: sysctl %s=%s: %w", n.Name, key, value, err)
		}
		return nil
	})
}

// GetSysctl reads a network sysctl of the namespace.
func (n *NS) GetSysctl(key string) (string, error) {
	var b []byte
	err := n.Do(func() (err error) { b, err = os.ReadFile(sysctlPath(key)); return })
	return strings.TrimSpace(string(b)), err
}

func sysctlPath(key string) string {
	if !strings.ContainsRune(key, '/') {
		key = strings.ReplaceAll(key, ".", "/")
	}
	return filepath.Join("/proc/sys", key)
}
