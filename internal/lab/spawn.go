package lab

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"kedge/internal/system/netns"
)

// process is a child in a namespace.
type process struct {
	name string
	cmd  *exec.Cmd
	done chan struct{}
	err  error // valid after done
	out  io.Closer
}

// start starts a command in a namespace with its output appended to a file. It dies with the lab.
func start(ns *netns.NS, name, logFile string, argv ...string) (*process, error) {
	out, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = time.Second // grandchildren may hold the output open
	if err := ns.StartChild(cmd); err != nil {
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
