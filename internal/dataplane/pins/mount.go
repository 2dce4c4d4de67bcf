package pins

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Available says whether there is a BPF file system at its usual place: nil = yes.
func Available() error {
	var fs unix.Statfs_t
	switch err := unix.Statfs(fileSystem, &fs); {
	case err != nil:
		return fmt.Errorf("no BPF file system at %s: %w", fileSystem, err)
	case fs.Type != unix.BPF_FS_MAGIC:
		return fmt.Errorf("no BPF file system is mounted at %s", fileSystem)
	}
	return nil
}

// Mount makes it available. It mounts nothing in a mount namespace of the process's own: that ends with the process, and what is
// pinned in it does.
func Mount() error {
	missing := Available()
	if missing == nil {
		return nil
	}
	mine, err1 := os.Readlink("/proc/self/ns/mnt")
	first, err2 := os.Readlink("/proc/1/ns/mnt")
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("%w, and whether one would last is not to be seen: %w", missing, err)
	}
	if mine != first {
		return fmt.Errorf("%w, and one that is mounted here would not outlive this process", missing)
	}
	if err := unix.Mount("bpf", fileSystem, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return fmt.Errorf("%w, and it cannot be: %w", missing, err)
	}
	return nil
}
