package peer

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"kedge/internal/system/netns"
)

// Process is a peer as its parent has it.
type Process struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *json.Decoder
	errs transcript
	done chan struct{}
}

// Start starts this program again in a namespace, with arguments that make it call Run.
func Start(ns *netns.NS, args ...string) (*Process, error) {
	p := &Process{cmd: exec.Command("/proc/self/exe", args...), done: make(chan struct{})}
	p.cmd.Stderr = &p.errs
	p.cmd.WaitDelay = time.Second
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, w, err := os.Pipe() // not StdoutPipe, which Wait closes before all is read
	if err != nil {
		return nil, err
	}
	p.cmd.Stdout = w
	err = ns.StartChild(p.cmd)
	w.Close()
	if err != nil {
		out.Close()
		return nil, fmt.Errorf("start a peer: %w", err)
	}
	p.out = json.NewDecoder(bufio.NewReader(out))
	go func() {
		_ = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// Ask sends a request and waits for the answer.
func (p *Process) Ask(r Request) (a Answer, err error) {
	if err := json.NewEncoder(p.in).Encode(r); err != nil {
		return a, p.died(err)
	}
	if err := p.out.Decode(&a); err != nil {
		return a, p.died(err)
	}
	if a.Error != "" {
		return a, errors.New(a.Error)
	}
	return a, nil
}

func (p *Process) died(err error) error {
	p.kill()
	return fmt.Errorf("peer: %w; it said: %s", err, p.Said())
}

// Said is what the peer wrote about itself so far.
func (p *Process) Said() string { return p.errs.text() }

// transcript keeps the beginning of what is written to it.
type transcript struct {
	mu sync.Mutex
	b  []byte
}

// transcriptLen is how much of it, octets.
const transcriptLen = 16 << 10

func (t *transcript) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, b[:min(len(b), transcriptLen-len(t.b))]...)
	return len(b), nil
}

func (t *transcript) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.b))
}

// PID of the process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Freeze stops a peer while others are measured, or lets it go on.
func (p *Process) Freeze(on bool) {
	s := syscall.SIGCONT
	if on {
		s = syscall.SIGSTOP
	}
	_ = p.cmd.Process.Signal(s)
}

func (p *Process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// Close ends the process: asked by the end of its input, else killed.
func (p *Process) Close() {
	p.Freeze(false)
	_ = p.in.Close()
	select {
	case <-p.done:
	case <-time.After(5 * time.Second):
		p.kill()
	}
}
