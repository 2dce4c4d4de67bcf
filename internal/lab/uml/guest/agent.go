package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"kedge/internal/lab/uml/channel"
)

// agent runs commands, several at once.
type agent struct {
	line io.ReadWriter

	mu       sync.Mutex // also of what is written to line
	out      *json.Encoder
	commands map[uint64]*exec.Cmd
}

func newAgent(line io.ReadWriter) *agent {
	return &agent{line: line, out: json.NewEncoder(line), commands: map[uint64]*exec.Cmd{}}
}

// serve returns when the line breaks.
func (a *agent) serve() error {
	a.say(channel.Answer{})
	in := bufio.NewScanner(a.line)
	for in.Scan() {
		r, err := request(in.Text())
		if err != nil {
			return fmt.Errorf("request %q: %w", in.Text(), err)
		}
		switch {
		case r.Kill:
			a.kill(r.ID)
		case r.Load != nil:
			a.end(r.ID, load(os.Getenv("modules"), r.Load))
		default:
			a.start(r)
		}
	}
	return fmt.Errorf("requests: %w", in.Err())
}

// request reads one that the host has put where both see it.
func request(number string) (r channel.Request, err error) {
	n, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return r, err
	}
	file := filepath.Join(Share, channel.File(n))
	b, err := os.ReadFile(file)
	if err != nil {
		return r, err
	}
	return r, errors.Join(os.Remove(file), json.Unmarshal(b, &r))
}

func (a *agent) say(v channel.Answer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	_ = a.out.Encode(v) // a broken line ends serve
}

// end says how something ended.
func (a *agent) end(id uint64, err error) {
	v := channel.Answer{ID: id, Done: true}
	var status *exec.ExitError
	if errors.As(err, &status) && status.Exited() {
		v.Code = status.ExitCode()
	} else if err != nil {
		v.Code, v.Err = -1, err.Error()
	}
	a.say(v)
}

// output passes on what a command says.
type output struct {
	a  *agent
	id uint64
}

func (o output) Write(b []byte) (int, error) {
	o.a.say(channel.Answer{ID: o.id, Out: b})
	return len(b), nil
}

func (a *agent) start(r channel.Request) {
	if len(r.Argv) == 0 {
		a.end(r.ID, errors.New("no command"))
		return
	}
	if r.Argv[0] == "guest" { // this program
		r.Argv[0] = "/proc/self/exe"
	}
	c := exec.Command(r.Argv[0], r.Argv[1:]...)
	c.Stdin = bytes.NewReader(r.Stdin)
	o := output{a, r.ID}
	c.Stdout, c.Stderr = o, o
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.WaitDelay = time.Second // children of it may hold the output open
	if err := c.Start(); err != nil {
		a.end(r.ID, err)
		return
	}
	a.mu.Lock()
	a.commands[r.ID] = c
	a.mu.Unlock()
	go func() {
		err := c.Wait()
		a.mu.Lock()
		delete(a.commands, r.ID)
		a.mu.Unlock()
		a.end(r.ID, err)
	}()
}

// kill ends a command with all of its process group. One that has ended is no matter.
func (a *agent) kill(id uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.commands[id]; c != nil {
		_ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
	}
}
