package system

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"kedge/internal/core"
)

// journal remembers how things that carry no tag were before the first change, as JSON lines in a file that outlives a
// crash: {"version":1,"ns":"4:4026531840","undo":{...}}. A line is written before the change that it undoes.
type journal struct {
	path string
	ns   string
	// entries of an earlier run and of this one, oldest first; the first of a key wins, because it has the true old value.
	entries []entry
	known   map[string]bool
	torn    bool // the file ends in half a line
}

type entry struct {
	Version int         `json:"version"`
	NS      string      `json:"ns"`
	Undo    core.HostOp `json:"undo"`
}

func openJournal(path, ns string) (*journal, error) {
	j := &journal{path: path, ns: ns, known: make(map[string]bool)}
	if path == "" {
		return j, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("journal: %w", err)
	}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		var e entry
		// A crash in the middle of a write leaves half a line; its change was not made yet. Lines of another namespace
		// are of a life before: that namespace is gone with its settings.
		if json.Unmarshal(lines.Bytes(), &e) == nil && e.Version == 1 && e.NS == ns {
			j.remember(e)
		}
	}
	j.torn = len(b) > 0 && b[len(b)-1] != '\n'
	return j, nil
}

// undoKeys name what an undo concerns; a link operation may concern up to three things.
func undoKeys(op core.HostOp) (keys []string) {
	switch op.Kind {
	case "sysctl":
		return []string{"sysctl " + sysctlKey(op.Name)}
	case "address":
		return []string{"address " + op.Name + " " + op.Prefix.String()}
	}
	if op.Value != "" {
		keys = append(keys, "link "+op.Name+" state")
	}
	if op.MTU != 0 {
		keys = append(keys, "link "+op.Name+" mtu")
	}
	if op.MAC != (core.MAC{}) {
		keys = append(keys, "link "+op.Name+" mac")
	}
	return keys
}

// remember keeps an entry if any of it is new.
func (j *journal) remember(e entry) bool {
	op := &e.Undo
	if op.Kind == "link" { // what is known already is not the true old value
		if j.known["link "+op.Name+" state"] {
			op.Value = ""
		}
		if j.known["link "+op.Name+" mtu"] {
			op.MTU = 0
		}
		if j.known["link "+op.Name+" mac"] {
			op.MAC = core.MAC{}
		}
	}
	fresh := false
	for _, k := range undoKeys(*op) {
		fresh = fresh || !j.known[k]
		j.known[k] = true
	}
	if fresh {
		j.entries = append(j.entries, e)
	}
	return fresh
}

// note writes down how to undo the change that follows.
func (j *journal) note(undo core.HostOp) error {
	e := entry{Version: 1, NS: j.ns, Undo: undo}
	if !j.remember(e) || j.path == "" {
		return nil
	}
	line, err := json.Marshal(j.entries[len(j.entries)-1])
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	line = append(line, '\n')
	if j.torn {
		line = append([]byte{'\n'}, line...)
	}
	f, err := os.OpenFile(j.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = f.Write(line)
		j.torn = err != nil
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		j.forget() // it is not written down, so the change must not be made; the next try writes it
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}

// forget takes back what remember has just added.
func (j *journal) forget() {
	last := j.entries[len(j.entries)-1]
	j.entries = j.entries[:len(j.entries)-1]
	for _, k := range undoKeys(last.Undo) {
		delete(j.known, k)
	}
}

// has reports whether the journal knows of it.
func (j *journal) has(undo core.HostOp) bool {
	for _, k := range undoKeys(undo) {
		if j.known[k] {
			return true
		}
	}
	return false
}

// find gives the entry that puts something back.
func (j *journal) find(key string) (core.HostOp, bool) {
	for _, e := range j.entries {
		if slices.Contains(undoKeys(e.Undo), key) {
			return e.Undo, true
		}
	}
	return core.HostOp{}, false
}

// drop forgets the entries that were undone and rewrites the file.
func (j *journal) drop(undone func(core.HostOp) bool) error {
	j.entries = slices.DeleteFunc(j.entries, func(e entry) bool { return undone(e.Undo) })
	clear(j.known)
	var b bytes.Buffer
	for _, e := range j.entries {
		for _, k := range undoKeys(e.Undo) {
			j.known[k] = true
		}
		line, err := json.Marshal(e)
		if err != nil {
			return err
		}
		b.Write(append(line, '\n'))
	}
	if j.path == "" {
		return nil
	}
	j.torn = false
	if len(j.entries) == 0 {
		if err := os.Remove(j.path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("journal: %w", err)
		}
		return nil
	}
	next := j.path + ".next"
	if err := os.WriteFile(next, b.Bytes(), 0o600); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	return os.Rename(next, j.path)
}

// sysctlKey is the slash form of a name.
func sysctlKey(name string) string {
	if !strings.ContainsRune(name, '/') {
		return strings.ReplaceAll(name, ".", "/")
	}
	return name
}

// sysctl sets a value, or puts the old one back.
func (h *Host) sysctl(op core.HostOp) error {
	key := sysctlKey(op.Name)
	if !strings.HasPrefix(key, "net/") || strings.Contains(key, "..") {
		return fmt.Errorf("%q is no network setting: want net.…", op.Name)
	}
	value := op.Value
	if op.Del {
		old, ok := h.journal.find("sysctl " + key)
		if !ok {
			h.mark(op, 0)
			return nil
		}
		value = old.Value
	}
	err := h.inside(func() error {
		path := "/proc/sys/" + key
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		old := strings.TrimSpace(string(b))
		if old == strings.TrimSpace(value) {
			return nil
		}
		if !op.Del {
			if err := h.journal.note(core.HostOp{Kind: "sysctl", Name: key, Value: old}); err != nil {
				return err
			}
		}
		return os.WriteFile(path, []byte(value), 0)
	})
	if op.Del && errors.Is(err, os.ErrNotExist) {
		err = nil // of a link that is gone
	}
	if err != nil {
		return err
	}
	h.mark(op, 0)
	if op.Del {
		return h.journal.drop(func(u core.HostOp) bool { return slices.Contains(undoKeys(u), "sysctl "+key) })
	}
	return nil
}
