package uml

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kedge/internal/system/netns"
)

var (
	programs *Programs
	kedge    string // the daemon
)

// forever has the test's own program boot a guest in a directory, with the programs of another, and wait to be killed.
const forever = "KEDGE_UML_FOREVER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(forever); dir != "" {
		built := filepath.Dir(dir)
		_, err := Boot(context.Background(), Config{Programs: &Programs{Guest: filepath.Join(built, "guest"), shim: filepath.Join(built, "xsave.so")}, Dir: dir, Links: 1})
		fmt.Println("booted", err)
		select {}
	}
	dir, err := os.MkdirTemp("", "kedge-uml-")
	if err == nil {
		programs, err = Build(context.Background(), dir)
	}
	if err == nil {
		kedge = filepath.Join(dir, "kedge")
		err = Compile(context.Background(), kedge, "kedge/cmd/kedge")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// alive are the processes of the host that name a directory.
func alive(t *testing.T, dir string) (out []string) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	netns.Must(t, err)
	for _, f := range all {
		b, err := os.ReadFile(f)
		if err == nil && strings.Contains(string(b), dir) { // others end meanwhile
			out = append(out, f+": "+strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	return out
}

// vanish waits until none is left: the kernel of the host ends what was in a PID namespace one by one.
func vanish(t *testing.T, dir string) {
	t.Helper()
	var left []string
	for end := time.Now().Add(patience / 6); time.Now().Before(end); <-time.After(10 * time.Millisecond) {
		if left = alive(t, dir); len(left) == 0 {
			return
		}
	}
	t.Errorf("left: %v", left)
}

// TestGuest: a kernel of its own, that runs commands beside each other, and ends with all of them.
func TestGuest(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	start := time.Now()
	g, err := Boot(t.Context(), Config{Programs: programs, Dir: dir, Links: 2})
	netns.Must(t, err)
	defer g.Close()
	t.Logf("up after %v", time.Since(start).Round(time.Millisecond))
	out, err := g.Run(t.Context(), "uname", "-sr")
	if err != nil || !strings.HasPrefix(out, "Linux 6.1.") {
		t.Errorf("%q, %v", out, err)
	}
	if out, err = g.Run(t.Context(), "ip", "-o", "link"); err != nil || !strings.Contains(out, "vec0: ") || !strings.Contains(out, "vec1: ") {
		t.Errorf("%q, %v", out, err)
	}
	if out, err = g.Run(t.Context(), "sh", "-c", "echo said; exit 3"); out != "said\n" || err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("%q, %v", out, err)
	}
	if _, err = g.Run(t.Context(), "/nothing/there"); err == nil {
		t.Error("what is not there ran")
	}
	if out, err = g.Feed(t.Context(), strings.Repeat("0123456789abcdef\n", 5000), "cat"); err != nil || len(out) != 85000 {
		t.Errorf("%d octets came back: %v", len(out), err)
	}
	if err := g.Load(t.Context(), "ipv6", "no_such_module"); err == nil || !strings.Contains(err.Error(), "no module no_such_module") {
		t.Errorf("%v", err)
	}
	if _, err = g.Run(t.Context(), "sh", "-c", "echo x >"+Share+"/written && ! echo x >/etc/written"); err != nil {
		t.Errorf("what it may write to: %v", err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "written")); err != nil || string(b) != "x\n" {
		t.Errorf("%q, %v", b, err)
	}
	long := g.Start("sh", "-c", "echo one; echo two; sleep 1000")
	for _, want := range []string{"one", "two"} {
		if l, err := long.Line(t.Context()); err != nil || l != want {
			t.Errorf("%q, %v", l, err)
		}
	}
	long.Stop()
	if _, err := long.Wait(t.Context()); err == nil {
		t.Error("a stopped command ended well")
	}
	if _, err := long.Line(t.Context()); err == nil {
		t.Error("a line of a command that ended")
	}
	short, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := g.Run(short, "sleep", "1000"); err == nil {
		t.Error("nobody waited, and it ended well")
	}
	waiting := g.Start("sleep", "1000")
	if len(alive(t, dir)) == 0 {
		t.Error("a running guest is not found: what follows shows nothing")
	}
	netns.Must(t, g.Close())
	if _, err := waiting.Wait(t.Context()); err == nil {
		t.Error("a command outlived its kernel")
	}
	if _, err := g.Run(t.Context(), "true"); err == nil {
		t.Error("a command ran in a kernel that is gone")
	}
	vanish(t, dir)
}

// TestGuestDiesWithParent: whoever boots a guest and is killed leaves nothing.
func TestGuestDiesWithParent(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp(filepath.Dir(programs.Guest), "forever-")
	netns.Must(t, err)
	c := exec.Command("/proc/self/exe")
	c.Env = append(os.Environ(), forever+"="+dir)
	out, err := c.StdoutPipe()
	netns.Must(t, err)
	netns.Must(t, c.Start())
	l, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || l != "booted <nil>\n" {
		t.Errorf("%q, %v", l, err)
	}
	netns.Must(t, c.Process.Kill())
	_ = c.Wait()
	vanish(t, dir)
}

// TestGuestThatDoesNotBoot: what cannot be set up is an error, soon, and leaves nothing.
func TestGuestThatDoesNotBoot(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	broken := filepath.Join(dir, "guest")
	netns.Must(t, os.WriteFile(broken, []byte("#!/bin/false\n"), 0o700))
	start := time.Now()
	_, err := Boot(t.Context(), Config{Programs: &Programs{Guest: broken, shim: programs.shim}, Dir: dir})
	if err == nil || !strings.Contains(err.Error(), "Attempted to kill init") {
		t.Errorf("%v", err)
	}
	t.Logf("known after %v", time.Since(start).Round(time.Millisecond))
	vanish(t, dir)
}
