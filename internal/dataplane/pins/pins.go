// Package pins gives each data plane in the kernel a place in the BPF file system where its tables and links outlive the process:
// /sys/fs/bpf/kedge/NAME@SPACE. The name is the daemon's and its role's; the space is the network namespace, because daemons of
// one name may live in several of them and see the same file system. A lock on the directory says that the process lives. It goes
// with the process, however that ends; what is pinned stays, for the next process of that name to adopt.
//
// The file system takes no dots in names. Nothing here forwards or loads anything: package ebpf does.
package pins

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"kedge/internal/dataplane/ebpf"
)

// fileSystem is where Linux systems have the BPF file system.
const fileSystem = "/sys/fs/bpf"

// root holds the directories of all data planes. Tests put another one in its place.
var root = filepath.Join(fileSystem, "kedge")

// state is the directory in a place that is given to the plane, which may remove and make it again while the lock is held.
const state = "state"

// lookTime is how long a process may have the lock of a place that only looks at it.
const lookTime = 200 * time.Millisecond

// Held says that another process has a place.
type Held struct{ Name string }

func (h *Held) Error() string {
	return fmt.Sprintf("data plane: another process forwards as %s in this network namespace: end it, or give this daemon another name", h.Name)
}

// Unusable says that this process may not use the BPF file system: it is another user's, or read-only. Its programs would end with it.
type Unusable struct{ Err error }

func (u *Unusable) Error() string { return u.Err.Error() }
func (u *Unusable) Unwrap() error { return u.Err }

// refused makes an error of a directory *Unusable if the process may neither use the directory nor see that it is there. One that it
// does see may be that of a process of another user, which forwards.
func refused(dir string, err error) error {
	if !errors.Is(err, os.ErrPermission) && !errors.Is(err, unix.EROFS) {
		return err
	}
	if _, there := os.Stat(dir); there == nil {
		return fmt.Errorf("%w: another user's process may forward by this name: end it and remove the directory, or give this daemon another name", err)
	}
	return &Unusable{Err: err}
}

// Place is taken by this process.
type Place struct {
	Fresh bool // nobody left anything here
	name  string
	space string
	dir   string
	lock  *os.File
}

// Take takes the place of a name in the network namespace of the calling thread, and makes it if need be. The error is *Held if
// another process has it, *Unusable if there can be no place for this one.
func Take(name string) (*Place, error) {
	if strings.ContainsAny(name, "/@.") {
		return nil, fmt.Errorf("data plane: %q is no name of a directory", name)
	}
	space, err := Space()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(root, name+"@"+space)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, refused(dir, fmt.Errorf("data plane: %w", err))
	}
	p, err := patiently(dir)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, &Held{Name: name}
	}
	if err != nil {
		return nil, refused(dir, err)
	}
	if p == nil {
		return Take(name) // it was removed in between
	}
	_, err = os.Stat(p.Dir())
	p.Fresh = errors.Is(err, os.ErrNotExist)
	return p, nil
}

// Drop removes what an earlier process left at the place of a name in the network namespace of the calling thread. The error is *Held
// if that process lives.
func Drop(name string) error {
	p, err := Find(name)
	if p == nil || err != nil {
		return err
	}
	return p.Remove()
}

// Find takes the place of a name as Take does, if an earlier process left one; else it is nil.
func Find(name string) (*Place, error) {
	space, err := Space()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(root, name+"@"+space)
	p, err := patiently(dir)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, &Held{Name: name}
	}
	if err != nil {
		if err = refused(dir, err); errors.As(err, new(*Unusable)) {
			return nil, nil // nor could an earlier process of this user leave anything
		}
		return nil, err
	}
	return p, nil
}

// patiently takes the lock of a directory, which a process that looks at all of them may have for a moment.
func patiently(dir string) (p *Place, err error) {
	for end := time.Now().Add(lookTime); ; time.Sleep(lookTime / 10) {
		if p, err = lock(dir, unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(end) {
			return p, err
		}
	}
}

// lock takes the lock of a directory; nil if the directory went meanwhile.
func lock(dir string, how int) (*Place, error) {
	f, err := os.Open(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("data plane: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|how)
	for errors.Is(err, unix.EINTR) {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|how)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("data plane: lock %s: %w", dir, err)
	}
	now, err := os.Stat(dir)
	was, err2 := f.Stat()
	if err != nil || err2 != nil || !os.SameFile(now, was) {
		f.Close()
		return nil, nil
	}
	name, space, _ := strings.Cut(filepath.Base(dir), "@")
	return &Place{name: name, space: space, dir: dir, lock: f}, nil
}

// Dir is for ebpf.Config.Pin.
func (p *Place) Dir() string { return filepath.Join(p.dir, state) }

// Leave gives the place up, and keeps what is pinned there.
func (p *Place) Leave() error {
	return p.lock.Close()
}

// Remove gives the place up with all that is pinned there. Programs end that are attached by tcx, and in the network namespace of
// the calling thread those by clsact; interfaces that were made for them there go.
func (p *Place) Remove() error {
	err := errors.Join(ebpf.Remove(p.Dir()), os.RemoveAll(p.dir))
	if here, serr := Space(); serr == nil && here == p.space {
		err = errors.Join(err, ebpf.Detach(p.name), ebpf.Unjoin(p.name))
	}
	return errors.Join(err, p.lock.Close())
}

// Dead is a place in the network namespace of the calling thread that no process has, and whose programs go on.
type Dead struct {
	Name string
	*ebpf.Left
}

// Abandoned finds them.
func Abandoned() (out []Dead, err error) {
	here, err := Space()
	if err != nil {
		return nil, err
	}
	err = each(func(dir, name, space string) error {
		if space != here {
			return nil
		}
		p, err := lock(dir, unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, os.ErrPermission) || err == nil && p == nil {
			return nil
		}
		if err != nil {
			return err
		}
		if l := ebpf.Look(p.Dir()); l != nil && l.Goes() {
			out = append(out, Dead{name, l})
		}
		return p.Leave()
	})
	return out, err
}

// Space names the network namespace of the calling thread: by its cookie, which no other namespace gets until the next boot; by its
// inode before Linux 5.14.
func Space() (string, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("data plane: network namespace: %w", err)
	}
	defer unix.Close(fd)
	if cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE); err == nil {
		return strconv.FormatUint(cookie, 10), nil
	}
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return "", fmt.Errorf("data plane: network namespace: %w", err)
	}
	return fmt.Sprintf("inode%d", st.Ino), nil
}

// Clear removes all places of a network namespace, as Space names it, once the processes that had them have ended.
func Clear(space string) error {
	return each(func(dir, _, in string) error {
		if in != space {
			return nil
		}
		p, err := lock(dir, 0)
		if err != nil || p == nil {
			return err
		}
		return p.Remove()
	})
}

// Sweep removes the places that serve nobody any more: no process has them, and their programs have ended with their interfaces, or
// stopped because nobody came back for them. It gives their names.
func Sweep() (swept []string, err error) {
	err = each(func(dir, name, _ string) error {
		p, err := lock(dir, unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, os.ErrPermission) || err == nil && p == nil {
			return nil // those of another user are that one's
		}
		if err != nil {
			return err
		}
		if ebpf.Forwards(p.Dir()) {
			return p.Leave()
		}
		swept = append(swept, name)
		return p.Remove()
	})
	return swept, err
}

func each(f func(dir, name, space string) error) error {
	all, err := os.ReadDir(root)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("data plane: %w", err)
	}
	var errs []error
	for _, e := range all {
		if name, space, ok := strings.Cut(e.Name(), "@"); ok {
			errs = append(errs, f(filepath.Join(root, e.Name()), name, space))
		}
	}
	return errors.Join(errs...)
}
