package uml

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var (
	programs *Programs
	kedge    string // the daemon
)

func TestMain(m *testing.M) {
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

// TestGuest: a kernel of its own, with commands.
func TestGuest(t *testing.T) {
	start := time.Now()
	g, err := Boot(t.Context(), Config{Programs: programs, Dir: t.TempDir(), Links: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	t.Logf("up after %v", time.Since(start))
	out, err := g.Run(t.Context(), "uname", "-sr")
	if err != nil || !strings.HasPrefix(out, "Linux 6.1.") {
		t.Errorf("%q, %v", out, err)
	}
	t.Log(out)
	t.Log(g.Run(t.Context(), "ip", "addr"))
	t.Log(g.Load(t.Context(), "ipv6", "ip6_tunnel", "sit", "mip6", "esp6"))
	t.Log(g.Run(t.Context(), "ip", "addr"))
	t.Log(g.Run(t.Context(), "false"))
}
