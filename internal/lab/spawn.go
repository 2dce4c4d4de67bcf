package lab

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kedge/internal/system/netns"
)

// spawner starts processes in namespaces from one OS thread that lives as long as the lab. The kernel signals a process
// when the *thread* that made it ends (PR_SET_PDEATHSIG), so that children die with a killed lab, but not before.
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

// process is a child in a namespace.
type process struct {
	name string
	cmd  *exec.Cmd
	done chan struct{}
	err  error // valid after done
	out  io.Closer
}

// start starts a command in a namespace with its output appended to a file. The child leads a process group of its own, so
// a ctrl-C at the terminal reaches only the lab.
func start(ns *netns.NS, name, logFile string, argv ...string) (*process, error) {
	out, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Second // grandchildren may hold the output open
	fd, err := os.Open("/run/netns/" + ns.Name)
	if err != nil {
		out.Close()
		return nil, err
	}
	defer fd.Close()
	result := make(chan error)
	spawner() <- func() { result <- startIn(int(fd.Fd()), cmd) }
	if err := <-result; err != nil {
		out.Close()
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &process{name: name, cmd: cmd, done: make(chan struct{}), out: out}
	go func() {
		p.err = cmd.Wait()
		out.Close()
		close(p.done)
	}()
	return p, nil
}

func startIn(fd int, cmd *exec.Cmd) error {
	home, err := os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
	if err != nil {
		return err
	}
	defer home.Close()
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return err
	}
	err = cmd.Start()
	return errors.Join(err, unix.Setns(int(home.Fd()), unix.CLONE_NEWNET))
}

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// signal reaches the whole process group: a client's script as well.
func (p *process) signal(s syscall.Signal) {
	if p.running() {
		_ = syscall.Kill(-p.cmd.Process.Pid, s)
	}
}

// stop asks nicely and then kills. It reports whether the process ended by itself, and how.
func (p *process) stop(patience time.Duration) error { return p.ask(syscall.SIGTERM, patience) }

// interrupt does it as somebody at a terminal would: after SIGTERM a daemon leaves its forwarding to the next one, after SIGINT nothing.
func (p *process) interrupt(patience time.Duration) error { return p.ask(syscall.SIGINT, patience) }

func (p *process) ask(sig syscall.Signal, patience time.Duration) error {
	p.signal(syscall.SIGCONT)
	p.signal(sig)
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case <-p.done:
		return p.err
	case <-t.C:
		p.kill()
		return fmt.Errorf("%s did not end within %v of %v", p.name, patience, sig)
	}
}

func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.done
}
