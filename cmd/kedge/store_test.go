package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"kedge/internal/config"
)

// TestFirstStart: a start is the first one until its roles were ready once; then a file that is missing or damaged was
// lost, also when the start that finds it so is killed.
func TestFirstStart(t *testing.T) {
	cfg := config.Store{Kind: config.StoreBolt, Path: filepath.Join(t.TempDir(), "a", "lma1.db")}
	open := func(when string, want bool) {
		t.Helper()
		st, first, err := openStore(cfg, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if err := st.Close(); err != nil {
			t.Fatal(err)
		}
		if first != want {
			t.Errorf("%s: first start %v, want %v", when, first, want)
		}
	}
	fail := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	open("nothing is there", true)
	open("the first start failed", true)
	fail(markStore(cfg))
	fail(markStore(cfg))
	open("it was in use", false)
	fail(os.Remove(cfg.Path))
	open("the file is gone", false)
	open("and the start that saw it was killed", false)

	fail(os.Remove(mark(cfg)))
	fail(os.WriteFile(cfg.Path, []byte("no store"), 0o600))
	open("the file is damaged, the mark missing", false)
	open("and the start that saw it was killed", false)

	if _, first, err := openStore(config.Store{Kind: config.StoreMem}, nil); !first || err != nil {
		t.Errorf("in memory: %v %v", first, err)
	}
	fail(markStore(config.Store{Kind: config.StoreMem}))
}
