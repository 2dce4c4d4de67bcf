package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Share is where the guest has the directory that it may write to on the host; the rest of the host's files it may read.
const Share = "/mnt"

// boot is the first process: it never returns, and its end would be the kernel's.
func boot() {
	if err := mounts(); err != nil {
		halt(err)
	}
	line, err := serial("/dev/ttyS0")
	if err != nil {
		halt(err)
	}
	halt(newAgent(line).serve())
}

func mounts() error {
	var errs []error
	mount := func(what, where, kind, data string) {
		if err := unix.Mount(what, where, kind, 0, data); err != nil {
			errs = append(errs, fmt.Errorf("mount %s: %w", where, err))
		}
	}
	mount("proc", "/proc", "proc", "")
	mount("sysfs", "/sys", "sysfs", "")
	mount("tmpfs", "/tmp", "tmpfs", "")
	mount("tmpfs", "/run", "tmpfs", "")
	mount("share", Share, "hostfs", os.Getenv("share"))
	if _, err := os.Stat("/dev/ttyS0"); err != nil {
		mount("devtmpfs", "/dev", "devtmpfs", "")
	}
	return errors.Join(errs...)
}

// halt says on the console why, and switches the machine off.
func halt(err error) {
	fmt.Fprintf(os.Stderr, "guest: %v\n", err)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

// serial opens a line that passes every octet as it is.
func serial(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	t, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	t.Iflag, t.Oflag, t.Lflag = 0, 0, 0
	t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8 | unix.CREAD | unix.CLOCAL
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	return f, unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, t)
}

// load loads modules with those that they depend on, as modules.dep of depmod(8) lists them. What is in the kernel already, or is
// no module but part of it, is loaded.
func load(dir string, names []string) error {
	b, err := os.ReadFile(filepath.Join(dir, "modules.dep"))
	if err != nil {
		return err
	}
	built, err := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil {
		return err
	}
	files, inside := map[string][]string{}, map[string]bool{}
	for line := range strings.Lines(string(b)) {
		file, needs, _ := strings.Cut(strings.TrimSpace(line), ":")
		all := append([]string{file}, strings.Fields(needs)...)
		files[module(file)] = all
	}
	for line := range strings.Lines(string(built)) {
		inside[module(strings.TrimSpace(line))] = true
	}
	for _, name := range names {
		list := files[module(name)]
		if list == nil && !inside[module(name)] {
			return fmt.Errorf("this kernel has no module %s", name)
		}
		for i := len(list) - 1; i >= 0; i-- { // what is needed stands behind what needs it
			if err := insert(filepath.Join(dir, list[i])); err != nil {
				return err
			}
		}
	}
	return nil
}

// module is a name as the kernel has it.
func module(file string) string {
	return strings.ReplaceAll(strings.TrimSuffix(filepath.Base(file), ".ko"), "-", "_")
}

func insert(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load %s: %w", file, err)
	}
	return nil
}
