package system

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kedge/internal/core"
)

func sysctlUndo(name string) core.HostOp {
	return core.HostOp{Kind: "sysctl", Name: name, Value: "0"}
}

// TestJournalBehindATornLine: what is written behind half a line is read again.
func TestJournalBehindATornLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	must(t, os.WriteFile(path, []byte(`{"version":1,"ns":"n","undo":{"Kind":"sysctl","Name":"net/a"}}`+"\n"+`{"version":1,"ns`), 0o600))
	j, err := openJournal(path, "n")
	must(t, err)
	must(t, j.note(sysctlUndo("net/b")))
	must(t, j.note(sysctlUndo("net/c")))
	j, err = openJournal(path, "n")
	must(t, err)
	for _, name := range []string{"net/a", "net/b", "net/c"} {
		if !j.has(sysctlUndo(name)) {
			t.Errorf("%s is forgotten", name)
		}
	}
}

// TestJournalThatCannotBeWritten: nothing is changed that is not written down, now or at the next try.
func TestJournalThatCannotBeWritten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	path := filepath.Join(dir, "journal")
	j, err := openJournal(path, "n")
	must(t, err)
	must(t, os.Remove(dir))
	for range 2 {
		if err := j.note(sysctlUndo("net/a")); err == nil {
			t.Error("noted in a folder that is not there")
		}
	}
	must(t, os.Mkdir(dir, 0o700))
	must(t, j.note(sysctlUndo("net/a")))
	if j, err = openJournal(path, "n"); err != nil || !j.has(sysctlUndo("net/a")) {
		t.Errorf("when the folder is back the entry is not written: %v", err)
	}
}

// TestSweepRemovesFormerDevice: a TUN device that a killed run left and the config does not name any more goes with what is on it; one
// that somebody has open stays, and so does one that Kedge did not make.
func TestSweepRemovesFormerDevice(t *testing.T) {
	for _, c := range []struct {
		name          string
		alias, open   bool
		there, wanted bool
	}{
		{"left behind", true, false, false, false},
		{"open", true, true, true, false},
		{"another's", false, false, true, false},
		{"still wanted", true, false, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, _ := pair(t)
			ip(t, a, "tuntap", "add", "old0", "mode", "tun")
			if c.alias {
				ip(t, a, "link", "set", "old0", "alias", TunAlias)
			}
			if c.open {
				must(t, a.Do(func() error { return openTun(t, "old0") }))
			}
			path := filepath.Join(t.TempDir(), "journal")
			first := newHost(t, a, func(o *Options) { o.Journal = path })
			ops := []core.HostOp{{Kind: "link", Name: "old0", MTU: 1400, Value: "up"}, {Kind: "address", Name: "old0", Prefix: pfx("10.20.0.5/32")}}
			must(t, first.Apply(ops))
			first.Close()

			next := newHost(t, a, func(o *Options) { o.Journal = path })
			if c.wanted {
				must(t, next.Apply(ops))
			}
			gone, err := next.Sweep()
			must(t, err)
			if there := strings.Contains(ip(t, a, "link"), "old0"); there != c.there {
				t.Errorf("it is there: %v; swept %+v", there, gone)
			}
			if again, err := newHost(t, a, func(o *Options) { o.Journal = path }).Sweep(); err != nil || !c.wanted && len(again) != 0 {
				t.Errorf("a later run swept %+v, %v", again, err)
			}
		})
	}
}

// openTun attaches to a TUN device until the test ends.
func openTun(t *testing.T, name string) error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	t.Cleanup(func() { unix.Close(fd) })
	req, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_TUN)
	return unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
}
