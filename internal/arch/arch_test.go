package arch

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const root = "../.."

// forbidden says which packages a package (by prefix) must not import (by prefix), and why. Arrows only point down.
var forbidden = []struct{ from, to, why string }{
	{"wire", "kedge/internal", "wire formats are public and know bytes only"},
	{"wire", "net", "wire formats do no I/O"},
	{"wire", "os", "wire formats do no I/O"},
	{"wire", "time.", "wire formats have no clock"},
	{"internal/core", "kedge/", "core holds the words that all share, so it stands on nothing"},
	{"internal/rate", "kedge/", "a rate is arithmetic of times, so it stands on nothing"},
	{"internal/binding", "kedge/wire", "the binding cache is pure data and knows no protocol"},
	{"internal/binding", "kedge/internal/system", "machines do no I/O"},
	{"internal/pool", "kedge/internal/system", "machines do no I/O"},
	{"internal/subscriber", "kedge/internal/system", "machines do no I/O"},
	{"internal/anchor", "kedge/internal/system", "machines do no I/O"},
	{"internal/anchor", "kedge/internal/store", "a machine reaches the store by Persist only"},
	{"internal/anchor", "kedge/internal/dataplane", "a machine reaches forwarding by Forward only"},
	{"internal/anchor", "kedge/internal/gateway", "roles do not know each other"},
	{"internal/anchor", "kedge/internal/config", "a role has a Config of its own; cmd maps"},
	{"internal/gateway", "kedge/internal/system", "machines do no I/O"},
	{"internal/gateway", "kedge/internal/store", "a machine reaches the store by Persist only"},
	{"internal/gateway", "kedge/internal/dataplane", "a machine reaches forwarding by Forward only"},
	{"internal/gateway", "kedge/internal/anchor", "roles do not know each other"},
	{"internal/gateway", "kedge/internal/config", "a role has a Config of its own; cmd maps"},
	{"internal/node", "kedge/internal/system", "machines do no I/O"},
	{"internal/node", "kedge/internal/store", "a machine reaches the store by Persist only"},
	{"internal/node", "kedge/internal/dataplane", "a machine reaches forwarding by Forward only"},
	{"internal/node", "kedge/internal/ipsec", "machines know no keys"},
	{"internal/node", "kedge/internal/anchor", "roles do not know each other"},
	{"internal/node", "kedge/internal/gateway", "roles do not know each other"},
	{"internal/node", "kedge/internal/config", "a role has a Config of its own; cmd maps"},
	{"internal/peer", "kedge/internal/system", "machines do no I/O"},
	{"internal/peer", "kedge/internal/dataplane", "a machine reaches forwarding by Forward only"},
	{"internal/peer", "kedge/internal/node", "sub-machines do not know their parent"},
	{"internal/peer", "kedge/internal/anchor", "roles do not know each other"},
	{"internal/peer", "kedge/internal/config", "a role has a Config of its own; cmd maps"},
	{"internal/access", "kedge/internal/system", "machines do no I/O"},
	{"internal/access", "kedge/internal/gateway", "sub-machines do not know their parent"},
	{"internal/heartbeat", "kedge/internal/gateway", "sub-machines do not know their parent"},
	{"internal/heartbeat", "kedge/internal/anchor", "sub-machines do not know their parent"},
	{"internal/dataplane", "kedge/internal/anchor", "forwarding knows sessions, not roles' rules"},
	{"internal/dataplane", "kedge/internal/gateway", "forwarding knows sessions, not roles' rules"},
	{"internal/system", "kedge/internal/loop", "the operating system is below the loop"},
	{"internal/store", "kedge/internal/loop", "the store is below the loop"},
	{"internal/config", "kedge/internal/anchor", "cmd maps the config to roles"},
	{"internal/config", "kedge/internal/gateway", "cmd maps the config to roles"},
	{"internal/lab", "kedge/internal/anchor", "the lab runs the real binary"},
	{"internal/lab", "kedge/internal/gateway", "the lab runs the real binary"},
}

// machines do no I/O, hold no lock, start no goroutine and read no clock.
var machines = []string{
	"internal/anchor", "internal/gateway", "internal/heartbeat", "internal/access", "internal/due", "internal/rate", "internal/binding", "internal/pool", "internal/subscriber",
	"internal/node", "internal/peer",
}

// exempt are the exact imports that a rule's prefix would hit wrongly.
// Timestamps of RFC 4285 are no keys.
var exempt = map[string]bool{"net/netip": true, "kedge/internal/ipsec/rfc4285": true}

func TestImports(t *testing.T) {
	packages := 0
	walk(t, func(path, dir string, imports []string) {
		packages++
		for _, rule := range forbidden {
			if !under(dir, rule.from) {
				continue
			}
			for _, i := range imports {
				if !exempt[i] && (i == rule.to || strings.HasPrefix(i, strings.TrimSuffix(rule.to, "/")+"/")) {
					t.Errorf("%s imports %s: %s", path, i, rule.why)
				}
			}
		}
		for _, m := range machines {
			if !under(dir, m) {
				continue
			}
			for _, i := range imports {
				switch i {
				case "net", "os", "net/http", "syscall", "golang.org/x/sys/unix", "sync", "sync/atomic", "log/slog", "math/rand", "math/rand/v2", "crypto/rand":
					t.Errorf("%s imports %s: a machine has no I/O, lock, goroutine or clock; randomness is given to it", path, i)
				}
			}
		}
	})
	if packages < 20 {
		t.Fatalf("only %d files were looked at: is %s the project's root?", packages, root)
	}
}

// TestNoClock holds the rule that machines are told the time.
func TestNoClock(t *testing.T) {
	walk(t, func(path, dir string, _ []string) {
		for _, m := range machines {
			if !under(dir, m) {
				continue
			}
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for _, call := range []string{"time.Now(", "time.Since(", "time.After(", "time.NewTimer(", "time.Sleep(", "\tgo func"} {
				if strings.Contains(string(b), call) {
					t.Errorf("%s: %s: a machine is told the time by its loop", path, strings.TrimSpace(call))
				}
			}
		}
	})
}

// TestPackageDocs fails a package without a doc comment.
func TestPackageDocs(t *testing.T) {
	docs := map[string]bool{}
	walk(t, func(path, dir string, _ []string) {
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		docs[dir] = docs[dir] || f.Doc != nil
	})
	for dir, ok := range docs {
		if !ok {
			t.Errorf("package %s has no doc comment", dir)
		}
	}
}

// TestFileSize holds that a file holds one idea.
func TestFileSize(t *testing.T) {
	walk(t, func(path, _ string, _ []string) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(b), "\n"); n > 600 {
			t.Errorf("%s has %d lines, over 600: two ideas live in one room", path, n)
		}
	})
}

func under(dir, prefix string) bool { return dir == prefix || strings.HasPrefix(dir, prefix+"/") }

// walk visits every Go file that is not a test.
func walk(t *testing.T, visit func(path, dir string, imports []string)) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && d.Name() != ".." && path != root || d.Name() == "testdata" || d.Name() == "lab-out") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		var imports []string
		for _, i := range f.Imports {
			imports = append(imports, strings.Trim(i.Path.Value, `"`))
		}
		rel, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		visit(path, filepath.ToSlash(rel), imports)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
