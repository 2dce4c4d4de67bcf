//go:build linux

package netns

import (
	"errors"
	"fmt"

	vns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Anonymous makes a namespace without a name, with loopback up: it goes with the process that made it and those started in
// it, however they end. Close, not Delete, gives it back.
func Anonymous() (*NS, error) {
	n := &NS{fd: vns.None()}
	err := onThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("network namespace: %w (CAP_SYS_ADMIN is needed)", err)
		}
		n.fd, err = vns.Get()
		return err
	})
	if err == nil {
		err = n.Up("lo")
	}
	if err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}
