package netns

import (
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// TestChildIsInsideAndAlone: a child is in the namespace, leads its process group, and dies with this process; the namespace of others
// stays what it was, also after one that could not start.
func TestChildIsInsideAndAlone(t *testing.T) {
	n, err := Anonymous()
	Must(t, err)
	defer n.Close()
	space := func(start func(*exec.Cmd) error) string {
		var out strings.Builder
		c := exec.Command("readlink", "/proc/self/ns/net")
		c.Stdout = &out
		Must(t, start(c))
		Must(t, c.Wait())
		return out.String()
	}
	outside := space((*exec.Cmd).Start)
	if err := n.StartChild(exec.Command("/nothing/there")); err == nil {
		t.Error("what is not there was started")
	}
	if in := space(n.StartChild); in == outside || in != space(n.Start) {
		t.Errorf("a child is in %q, outside is %q", in, outside)
	}
	if again := space((*exec.Cmd).Start); again != outside {
		t.Errorf("others are in %q afterwards, were in %q", again, outside)
	}
	c := exec.Command("sleep", "60")
	Must(t, n.StartChild(c))
	if g, err := syscall.Getpgid(c.Process.Pid); err != nil || g != c.Process.Pid || c.SysProcAttr.Pdeathsig != syscall.SIGKILL {
		t.Errorf("process group %d of %d, %v", g, c.Process.Pid, err)
	}
	Must(t, c.Process.Kill())
	_ = c.Wait()
	Must(t, n.Close())
	if err := n.StartChild(exec.Command("true")); err == nil {
		t.Error("started in a namespace that is closed")
	}
}
