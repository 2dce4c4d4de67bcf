package user

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// claim makes the device this process's: the kernel would give queues of one device to any number of processes, and each would get
// a part of the packets. It is an abstract socket, whose names are each network namespace's own, and which ends with the process.
func (p *Plane) claim(device string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("data plane: device %s: %w", device, err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: "@kedge/" + device}); err != nil {
		unix.Close(fd)
		if errors.Is(err, unix.EADDRINUSE) {
			err = errInUse
		}
		return fmt.Errorf("data plane: device %s: %w", device, err)
	}
	p.undo = append(p.undo, func() { unix.Close(fd) })
	return nil
}
