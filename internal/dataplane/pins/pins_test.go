package pins

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kedge/internal/system/netns"
)

// elsewhere puts the root of all places into a directory of the test's own.
func elsewhere(t *testing.T) {
	was := root
	root = filepath.Join(t.TempDir(), "kedge")
	t.Cleanup(func() { root = was })
}

func places(t *testing.T) string {
	t.Helper()
	all, err := os.ReadDir(root)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var names []string
	for _, e := range all {
		name, _, _ := strings.Cut(e.Name(), "@")
		names = append(names, name)
	}
	return strings.Join(names, " ")
}

// TestPlace: one process has a place; what it leaves is found by the next, and Drop and Remove take it away.
func TestPlace(t *testing.T) {
	elsewhere(t)
	p, err := Take("lma1_anchor")
	netns.Must(t, err)
	if !p.Fresh || filepath.Base(p.Dir()) != state {
		t.Errorf("%+v", p)
	}
	held := new(Held)
	if _, err := Take("lma1_anchor"); !errors.As(err, &held) || held.Name != "lma1_anchor" || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a second one: %v", err)
	}
	if err := Drop("lma1_anchor"); !errors.As(err, &held) {
		t.Errorf("drop of one that is held: %v", err)
	}
	q, err := Take("lma1_gateway")
	netns.Must(t, err)
	netns.Must(t, os.MkdirAll(p.Dir(), 0o700))
	netns.Must(t, p.Leave())
	netns.Must(t, q.Remove())
	if got := places(t); got != "lma1_anchor" {
		t.Errorf("left: %s", got)
	}
	p, err = Take("lma1_anchor")
	netns.Must(t, err)
	if p.Fresh {
		t.Error("what was left is not seen")
	}
	netns.Must(t, p.Leave())
	netns.Must(t, Drop("lma1_anchor"))
	netns.Must(t, Drop("lma1_anchor")) // there is none
	if got := places(t); got != "" {
		t.Errorf("left: %s", got)
	}
	for _, name := range []string{"a/b", "a@1", "a.b"} { // a BPF file system refuses dots
		if _, err := Take(name); err == nil {
			t.Errorf("%s is a place", name)
		}
	}
}

// TestSpaces: one name in two network namespaces has two places, and Clear removes those of one.
func TestSpaces(t *testing.T) {
	elsewhere(t)
	a, b := netns.Test(t, "a"), netns.Test(t, "b")
	var spaces []string
	for _, ns := range []*netns.NS{a, b} {
		netns.Must(t, ns.Do(func() error {
			for _, name := range []string{"lma1_anchor", "lma1_gateway"} {
				p, err := Take(name)
				if err != nil {
					return err
				}
				if err := errors.Join(os.MkdirAll(p.Dir(), 0o700), p.Leave()); err != nil {
					return err
				}
			}
			s, err := Space()
			spaces = append(spaces, s)
			return err
		}))
	}
	if spaces[0] == spaces[1] || spaces[0] == "" {
		t.Errorf("spaces %q", spaces)
	}
	netns.Must(t, Clear(spaces[0]))
	if got := places(t); got != "lma1_anchor lma1_gateway" {
		t.Errorf("left: %s", got)
	}
	netns.Must(t, Clear(""))
	netns.Must(t, Clear(spaces[1]))
	if got := places(t); got != "" {
		t.Errorf("left: %s", got)
	}
}

// TestSweep: a place that nobody has and nothing forwards from goes; one that a process has stays.
func TestSweep(t *testing.T) {
	elsewhere(t)
	if swept, err := Sweep(); err != nil || len(swept) > 0 {
		t.Errorf("nothing there: %v %v", swept, err)
	}
	alive, err := Take("alive")
	netns.Must(t, err)
	dead, err := Take("dead")
	netns.Must(t, err)
	netns.Must(t, os.MkdirAll(dead.Dir(), 0o700))
	netns.Must(t, dead.Leave())
	netns.Must(t, os.MkdirAll(filepath.Join(root, "somebody's"), 0o700))
	swept, err := Sweep()
	if err != nil || strings.Join(swept, " ") != "dead" || places(t) != "alive somebody's" {
		t.Errorf("%v %v, left %s", swept, err, places(t))
	}
	netns.Must(t, alive.Remove())
}

// TestAvailable: this machine has the file system, and says so without mounting anything.
func TestAvailable(t *testing.T) {
	netns.Must(t, Mount())
	netns.Must(t, Available())
}

// TestAnotherUser: where the BPF file system is another user's there is no place, and nothing to remove or to sweep; a place that is
// seen to be another user's is an error, for its process may forward.
func TestAnotherUser(t *testing.T) {
	elsewhere(t)
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	as := func(user int) {
		t.Helper()
		if err := unix.Setfsuid(user); err != nil {
			t.Fatal(err)
		}
	}
	const stranger = 65534
	// No directory above may be the obstacle.
	for _, d := range []string{filepath.Dir(root), filepath.Dir(filepath.Dir(root))} {
		netns.Must(t, os.Chmod(d, 0o755))
	}
	unusable := new(Unusable)

	as(stranger)
	if _, err := Take("lma1_anchor"); !errors.As(err, &unusable) {
		t.Errorf("no right to make the root: %v", err)
	}
	netns.Must(t, Drop("lma1_anchor"))

	as(0)
	p, err := Take("lma1_anchor")
	netns.Must(t, err)
	netns.Must(t, os.Chmod(root, 0o700))
	as(stranger)
	if _, err := Take("lma1_anchor"); !errors.As(err, &unusable) {
		t.Errorf("no right to look into the root: %v", err)
	}
	netns.Must(t, Drop("lma1_anchor"))
	if swept, err := Sweep(); err != nil || len(swept) > 0 {
		t.Errorf("no right to look into the root: swept %v, %v", swept, err)
	}

	as(0)
	netns.Must(t, os.Chmod(root, 0o755))
	as(stranger)
	for what, err := range map[string]error{"take": second(Take("lma1_anchor")), "drop": Drop("lma1_anchor")} {
		if err == nil || errors.As(err, &unusable) || !strings.Contains(err.Error(), "another user's process") {
			t.Errorf("%s of another user's place: %v", what, err)
		}
	}
	if swept, err := Sweep(); err != nil || len(swept) > 0 {
		t.Errorf("another user's place: swept %v, %v", swept, err)
	}
	as(0)
	netns.Must(t, p.Remove())
}

func second(_ *Place, err error) error { return err }
