// Package uml runs a second Linux kernel as a process (user-mode-linux, Debian package of that name) as a judge of packets: a kernel
// that has IP in IP tunnels, GRE, ESP and Mobile IPv6 of its own, written by nobody of this project.
//
// A Guest sees the file system of the host, read-only, so that its programs are there, and one directory that it may write to. Its network
// interfaces vec0, vec1, ... are tap devices on bridges in a network namespace of its own (Wire); Connect puts a link into another
// namespace beside them. Commands run in it by an agent (command guest) that is its first process and talks over a serial line.
//
// The guest dies with this process, however that ends: its kernel is the first process of a PID namespace, and what runs in it are
// others of the same. Several may run at once. Needs root, gcc for the shim of directory xsave, and the go command for the agent.
package uml

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"kedge/internal/lab/uml/channel"
	"kedge/internal/system/netns"
)

// Kernel is the program, of Debian's package user-mode-linux.
const Kernel = "linux.uml"

// modulesDir is where that package has the modules, by release.
const modulesDir = "/usr/lib/uml/modules"

// bootsWithin is how long a guest may take until its agent answers; it takes one to three seconds where nothing else runs.
const bootsWithin = 60 * time.Second

// memory of a guest.
const memory = "256M"

//go:embed xsave/xsave.c
var sources embed.FS

// Programs are what guests need of this repository, built.
type Programs struct {
	Guest string // the agent, and the small programs of both sides
	shim  string
}

// Build builds the programs in a directory.
func Build(ctx context.Context, dir string) (*Programs, error) {
	p := &Programs{Guest: filepath.Join(dir, "guest"), shim: filepath.Join(dir, "xsave.so")}
	c, err := sources.ReadFile("xsave/xsave.c")
	if err != nil {
		return nil, err
	}
	cc := exec.CommandContext(ctx, "gcc", "-O2", "-shared", "-fPIC", "-Wall", "-Werror", "-x", "c", "-o", p.shim, "-")
	cc.Stdin = bytes.NewReader(c)
	if out, err := cc.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the shim of the guest kernel: %w: %s", err, out)
	}
	return p, Compile(ctx, p.Guest, "kedge/internal/lab/uml/guest")
}

// Compile builds a command as a static program: nothing of the race detector or of the C library is in it.
func Compile(ctx context.Context, file, command string) error {
	b := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", file, command)
	b.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := b.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w: %s", command, err, out)
	}
	return nil
}

// Config of a guest.
type Config struct {
	Programs *Programs
	Dir      string // its own; the guest may write to it, and sees it as Share
	Links    int    // how many network interfaces it has
}

// Share is where a guest has its directory.
const Share = "/mnt"

// Guest is a running kernel.
type Guest struct {
	Wire *netns.NS // with bridges br0, br1, ... for its interfaces

	dir     string
	cmd     *exec.Cmd
	line    *os.File
	ended   chan struct{}
	beating sync.WaitGroup

	mu       sync.Mutex
	last     uint64 // request
	commands map[uint64]*Command
	ready    chan struct{}
	gone     bool
	taps     int
	ports    int
}

// Boot starts a kernel and waits for its agent. The error has the end of the console.
func Boot(ctx context.Context, c Config) (_ *Guest, err error) {
	program, err := exec.LookPath(Kernel)
	if err != nil {
		return nil, fmt.Errorf("%w: Debian package user-mode-linux has it (tools/setup)", err)
	}
	modules, err := modulesOf()
	if err != nil {
		return nil, err
	}
	g := &Guest{dir: c.Dir, taps: c.Links, ended: make(chan struct{}), ready: make(chan struct{}), commands: map[uint64]*Command{}}
	if g.Wire, err = netns.Anonymous(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.Close())
		}
	}()
	if err := g.wire(); err != nil {
		return nil, err
	}
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(ends[0], true); err != nil { // so that Close ends a read
		return nil, errors.Join(err, unix.Close(ends[0]), unix.Close(ends[1]))
	}
	g.line = os.NewFile(uintptr(ends[0]), "serial line")
	theirs := os.NewFile(uintptr(ends[1]), "serial line of the guest")
	defer theirs.Close()
	console, err := os.OpenFile(g.console(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer console.Close()
	args := []string{"--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "env", "LD_PRELOAD=" + c.Programs.shim, program,
		"mem=" + memory, "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "init=" + c.Programs.Guest, "umid=guest", "uml_dir=" + c.Dir + "/",
		"con=null", "con0=null,fd:1", "ssl=null", "ssl0=fd:3", "quiet", "loglevel=4", "net.ifnames=0",
		"share=" + c.Dir, "modules=" + modules, "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
		// A signal handler of this kernel gives back less of the vector registers than it took: programs that are interrupted by signals use none.
		"GODEBUG=asyncpreemptoff=1,cpu.avx=off,cpu.avx2=off,cpu.avx512f=off", "GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX2_Usable,-AVX512F_Usable,-AVX2,-AVX512F,-AVX512VL,-AVX512BW",
	}
	for i := range c.Links {
		args = append(args, fmt.Sprintf("vec%d:transport=tap,ifname=%s,depth=64,gro=0,mac=02:00:00:00:77:%02x", i, tapName(i), i+1))
	}
	g.cmd = exec.Command("unshare", args...)
	g.cmd.Stdout, g.cmd.Stderr, g.cmd.ExtraFiles = console, console, []*os.File{theirs}
	if err := g.Wire.StartChild(g.cmd); err != nil {
		g.cmd = nil
		return nil, fmt.Errorf("start the guest kernel: %w", err)
	}
	go g.read()
	go func() {
		_ = g.cmd.Wait()
		close(g.ended)
	}()
	ctx, cancel := context.WithTimeout(ctx, bootsWithin)
	defer cancel()
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	for {
		select {
		case <-g.ready:
			return g, g.hearts()
		case <-g.ended:
			return nil, fmt.Errorf("the guest kernel ended at its start: %s", g.Console())
		case <-ctx.Done():
			return nil, fmt.Errorf("the guest kernel did not come up: %w: %s", ctx.Err(), g.Console())
		case <-look.C: // a kernel in a panic does not end
			if c := g.Console(); strings.Contains(c, "Kernel panic") {
				return nil, fmt.Errorf("the guest kernel did not come up: %s", c)
			}
		}
	}
}

func modulesOf() (string, error) {
	found, err := filepath.Glob(modulesDir + "/*/modules.dep")
	if err != nil {
		return "", err
	}
	if len(found) != 1 {
		return "", fmt.Errorf("%d releases of modules in %s, want one", len(found), modulesDir)
	}
	return filepath.Dir(found[0]), nil
}

func (g *Guest) console() string { return filepath.Join(g.dir, "console.log") }

// Console is the end of what the kernel has said.
func (g *Guest) Console() string {
	b, err := os.ReadFile(g.console())
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-4000):])
}

// read takes answers until the line breaks.
func (g *Guest) read() {
	in := json.NewDecoder(g.line)
	for {
		var a channel.Answer
		if err := in.Decode(&a); err != nil {
			g.lost(fmt.Errorf("the guest is gone: %w", err))
			return
		}
		if a.ID == 0 {
			close(g.ready)
			continue
		}
		g.mu.Lock()
		c := g.commands[a.ID]
		if a.Done {
			delete(g.commands, a.ID)
		}
		g.mu.Unlock()
		if c == nil {
			continue
		}
		c.said(a.Out)
		switch {
		case !a.Done:
		case a.Err != "":
			c.finish(errors.New(a.Err))
		case a.Code != 0:
			c.finish(fmt.Errorf("exit status %d", a.Code))
		default:
			c.finish(nil)
		}
	}
}

func (g *Guest) lost(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gone = true
	for id, c := range g.commands {
		delete(g.commands, id)
		c.finish(err)
	}
}

// ask sends a request whose answers go to a new command.
func (g *Guest) ask(r channel.Request, name string) *Command {
	c := &Command{g: g, name: name, done: make(chan struct{}), more: make(chan struct{}, 1)}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.last++
	c.id, r.ID = g.last, g.last
	if g.gone {
		c.finish(errors.New("the guest is gone"))
		return c
	}
	g.commands[c.id] = c
	if err := g.send(c.id, r); err != nil {
		delete(g.commands, c.id)
		c.finish(fmt.Errorf("ask the guest: %w", err))
	}
	return c
}

// send sends a request, with g.mu held.
func (g *Guest) send(number uint64, r channel.Request) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(g.dir, channel.File(number)), b, 0o600); err != nil {
		return err
	}
	_, err = fmt.Fprintf(g.line, "%d\n", number)
	return err
}

// Load loads kernel modules, with all that they need. What the kernel has not is an error.
func (g *Guest) Load(ctx context.Context, names ...string) error {
	_, err := g.ask(channel.Request{Load: names}, "load "+strings.Join(names, " ")).Wait(ctx)
	return err
}

// Start starts a command; "guest" is the agent's own program.
func (g *Guest) Start(argv ...string) *Command {
	return g.ask(channel.Request{Argv: argv}, strings.Join(argv, " "))
}

// Run runs a command to its end and gives what it said; an error has that too.
func (g *Guest) Run(ctx context.Context, argv ...string) (string, error) {
	return g.Start(argv...).Wait(ctx)
}

// Feed runs a command with standard input.
func (g *Guest) Feed(ctx context.Context, stdin string, argv ...string) (string, error) {
	return g.ask(channel.Request{Argv: argv, Stdin: []byte(stdin)}, strings.Join(argv, " ")).Wait(ctx)
}

// IP runs lines of ip(8).
func (g *Guest) IP(ctx context.Context, lines ...string) error {
	_, err := g.Feed(ctx, strings.Join(lines, "\n")+"\n", "ip", "-batch", "-")
	return err
}

// Sysctl sets settings, each "name/with/slashes=value" below /proc/sys.
func (g *Guest) Sysctl(ctx context.Context, settings ...string) error {
	var text strings.Builder
	for _, s := range settings {
		name, value, _ := strings.Cut(s, "=")
		fmt.Fprintf(&text, "echo %s >/proc/sys/%s || exit 1\n", value, name)
	}
	_, err := g.Feed(ctx, text.String(), "sh")
	return err
}

// Close ends the kernel with all that runs in it, and gives its network back.
func (g *Guest) Close() error {
	if g.line != nil {
		g.line.Close()
	}
	if g.cmd != nil {
		_ = g.cmd.Process.Kill() // what unshare started dies with it
		<-g.ended
		g.beating.Wait()
		g.cmd = nil
	}
	err := g.Wire.Close()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
