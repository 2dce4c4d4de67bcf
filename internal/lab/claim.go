package lab

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"kedge/internal/dataplane/pins"
	"kedge/internal/system/netns"
)

// stateDir holds a folder for each run on this machine: its lock, its owner's pid, configs and control sockets. It is a
// short path because unix socket names are limited to 107 octets.
var stateDir = "/run/kedge-lab"

const nsPrefix = "kl"

// claim is the exclusive right to an id, held by a file lock: the kernel gives it up when the process dies, however.
type claim struct {
	id, dir string
	lock    *os.File
}

// withStateLock serializes making and sweeping of claims among labs.
func withStateLock(f func() error) error {
	if err := os.MkdirAll(stateDir, 0o755); err != nil {
		return fmt.Errorf("lab: %w (root is needed)", err)
	}
	l, err := os.OpenFile(filepath.Join(stateDir, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	defer l.Close()
	if err := unix.Flock(int(l.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lab: lock: %w", err)
	}
	return f()
}

// What a lab does with its network: `down` ends those that are kept up, and lets runs come to their own end.
const (
	kindRun = "run"
	kindUp  = "up"
)

// newClaim takes a fresh id for a network of the named scenario.
func newClaim(kind, scenario string) (*claim, error) {
	var c *claim
	err := withStateLock(func() error {
		for range 100 {
			id := strings.ToLower(rand.Text()[:4])
			dir := filepath.Join(stateDir, id)
			if err := os.Mkdir(dir, 0o700); errors.Is(err, os.ErrExist) {
				continue
			} else if err != nil {
				return err
			}
			lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
			if err != nil {
				return err
			}
			if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
				return err
			}
			if _, err := fmt.Fprintf(lock, "%d %s %s\n", os.Getpid(), kind, scenario); err != nil {
				return err
			}
			c = &claim{id: id, dir: dir, lock: lock}
			return nil
		}
		return errors.New("no free id")
	})
	if err != nil {
		return nil, fmt.Errorf("lab: claim: %w", err)
	}
	return c, nil
}

func (c *claim) ns(node string) string { return nsPrefix + c.id + "-" + node }

// release removes everything that bears the id, and the id.
func (c *claim) release() error {
	return errors.Join(remove(c.id), os.RemoveAll(c.dir), c.lock.Close())
}

// Running is a lab that lives on this machine.
type Running struct {
	ID       string `json:"id"`
	Kind     string `json:"kind"` // run or up
	Scenario string `json:"scenario"`
	PID      int    `json:"pid"`
}

// runs lists the claims: those that live, and the ids of dead ones.
func runs() (alive []Running, dead []string, err error) {
	entries, err := os.ReadDir(stateDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, nil
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		b, _ := os.ReadFile(filepath.Join(stateDir, e.Name(), "lock"))
		l, oerr := os.OpenFile(filepath.Join(stateDir, e.Name(), "lock"), os.O_RDWR, 0)
		if oerr != nil || unix.Flock(int(l.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			dead = append(dead, e.Name())
		} else {
			r := Running{ID: e.Name()}
			_, _ = fmt.Sscanf(string(b), "%d %s %s", &r.PID, &r.Kind, &r.Scenario)
			alive = append(alive, r)
		}
		if l != nil {
			l.Close()
		}
	}
	return alive, dead, err
}

// Sweep removes what labs that died left behind. It touches nothing of those that live.
func Sweep() (swept []string, err error) {
	err = withStateLock(func() error {
		_, dead, err := runs()
		for _, id := range dead {
			err = errors.Join(err, remove(id), os.RemoveAll(filepath.Join(stateDir, id)))
			swept = append(swept, id)
		}
		return err
	})
	return swept, err
}

// remove ends every process inside the run's namespaces, and deletes their names and what they left in the kernel: programs go on
// without the daemons that attached them.
func remove(id string) error {
	names, err := netns.List()
	if err != nil {
		return err
	}
	var errs []error
	inodes := map[uint64]bool{}
	var mine []string
	for _, n := range names {
		if !strings.HasPrefix(n, nsPrefix+id+"-") {
			continue
		}
		mine = append(mine, n)
		var st unix.Stat_t
		if unix.Stat("/run/netns/"+n, &st) == nil {
			inodes[st.Ino] = true
		}
	}
	if len(mine) > 0 {
		killInside(inodes)
	}
	for _, n := range mine {
		var space string
		if ns, err := netns.Open(n); err == nil {
			err = ns.Do(func() (err error) { space, err = pins.Space(); return err })
			errs = append(errs, err, ns.Close())
		}
		errs = append(errs, netns.Delete(n), pins.Clear(space))
	}
	return errors.Join(errs...)
}

// killInside kills the processes whose network namespace is one of these: exactly those of the run, whoever their parent is.
func killInside(inodes map[uint64]bool) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		var st unix.Stat_t
		if unix.Stat("/proc/"+e.Name()+"/ns/net", &st) == nil && inodes[st.Ino] {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}

// leftovers names namespaces of the run that still exist.
func leftovers(id string) []string {
	var out []string
	names, _ := netns.List()
	for _, n := range names {
		if strings.HasPrefix(n, nsPrefix+id+"-") {
			out = append(out, n)
		}
	}
	return out
}
