package system

import (
	"os"
	"path/filepath"
	"testing"

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
