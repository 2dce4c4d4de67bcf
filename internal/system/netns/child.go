//go:build linux

package netns

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"sync"
	"syscall"

	vns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// spawner starts processes from one OS thread that lives as long as this process: the kernel signals a child when the thread that
// made it ends (PR_SET_PDEATHSIG).
var spawner = sync.OnceValue(func() chan<- func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread() // for good
		for f := range work {
			f()
		}
	}()
	return work
})

// StartChild starts cmd inside the namespace. The kernel kills it when this process ends, however that happens. It leads a process
// group of its own, so that a ctrl-C at the terminal reaches only this process, which ends it.
func (n *NS) StartChild(cmd *exec.Cmd) error {
	fd, err := n.dup()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	result := make(chan error)
	spawner() <- func() {
		home, err := vns.Get()
		if err != nil {
			result <- fmt.Errorf("current network namespace: %w", err)
			return
		}
		defer home.Close()
		if err = unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			err = fmt.Errorf("enter namespace %s: %w", n.Name, err)
		} else {
			err = errors.Join(cmd.Start(), unix.Setns(int(home), unix.CLONE_NEWNET))
		}
		result <- err
	}
	return <-result
}
