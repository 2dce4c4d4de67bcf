package bolt

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"kedge/internal/core"
	"kedge/internal/store"
	"kedge/internal/store/storetest"
)

func TestMain(m *testing.M) {
	if path := os.Getenv("KEDGE_TEST_COMMIT_TO"); path != "" {
		commitForever(path)
	}
	os.Exit(m.Run())
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t testing.TB) func() core.Store {
		dir, err := os.MkdirTemp(t.TempDir(), "") // one more for each attempt of the random test
		if err != nil {
			t.Fatal(err)
		}
		var s *Store
		t.Cleanup(func() {
			if s != nil {
				s.Close()
			}
		})
		return func() core.Store {
			if s != nil {
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
			}
			var err error
			if s, err = Open(filepath.Join(dir, "store", "a.db")); err != nil {
				t.Fatal(err)
			}
			return s
		}
	})
}

const anchor = "lma1"

// batchOf is commit n: three records that hold n, and one that only this commit has. Every tenth deletes an older one.
func batchOf(n uint64) []core.Persist {
	v := binary.BigEndian.AppendUint64(nil, n)
	one := bytes.Repeat(v, 1+int(n%200))
	b := []core.Persist{{Key: []byte("first"), Val: v}, {Key: fmt.Appendf(nil, "n/%010d", n), Val: one}, {Key: []byte("middle"), Val: v}, {Key: []byte("z-last"), Val: v}}
	if n%10 == 0 && n > 20 {
		b = append(b, core.Persist{Key: fmt.Appendf(nil, "n/%010d", n-20)})
	}
	return b
}

// commitForever is the child process: it commits and prints each number once it is acknowledged.
func commitForever(path string) {
	s, err := Open(path)
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	l, err := s.Own(context.Background(), anchor)
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	n := uint64(0)
	for p := range s.Load(context.Background(), anchor) {
		if string(p.Key) == "first" {
			n = binary.BigEndian.Uint64(p.Val)
		}
	}
	for {
		n++
		if _, err := s.Commit(context.Background(), l.Token(), batchOf(n)); err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		fmt.Println(n)
	}
}

// TestKill kills a committing process at random moments: nothing that it acknowledged is missing, nothing is half there.
func TestKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	total := uint64(0)
	for round := range 20 {
		acked := runAndKill(t, path, time.Duration(5+rng.IntN(60))*time.Millisecond)
		s, err := Open(path)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		have := map[string][]byte{}
		for p, err := range s.Load(t.Context(), anchor) {
			if err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
			have[string(p.Key)] = p.Val
		}
		n := uint64(0)
		if v := have["first"]; v != nil {
			n = binary.BigEndian.Uint64(v)
		}
		// One commit may be durable without having been acknowledged.
		if n < acked || n > max(acked, total)+1 {
			t.Fatalf("round %d: %d was acknowledged, the store has %d", round, acked, n)
		}
		want := map[string][]byte{}
		for i := uint64(1); i <= n; i++ {
			for _, p := range batchOf(i) {
				if p.Val == nil {
					delete(want, string(p.Key))
				} else {
					want[string(p.Key)] = p.Val
				}
			}
		}
		if len(want) != len(have) {
			t.Fatalf("round %d: %d records, want %d", round, len(have), len(want))
		}
		for k, v := range want {
			if !bytes.Equal(have[k], v) {
				t.Fatalf("round %d: record %s is %x, want %x: half a commit", round, k, have[k], v)
			}
		}
		total = n
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if total < 20 {
		t.Errorf("only %d commits in 20 rounds: the test shows nothing", total)
	}
}

// runAndKill lets a child commit for a while after its first acknowledgement and gives the last one.
func runAndKill(t *testing.T, path string, after time.Duration) (acked uint64) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "KEDGE_TEST_COMMIT_TO="+path)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(time.Hour, func() { _ = cmd.Process.Signal(syscall.SIGKILL) })
	defer timer.Stop()
	first := true
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if first {
			timer.Reset(after)
			first = false
		}
		n, err := strconv.ParseUint(lines.Text(), 10, 64)
		if err != nil {
			t.Fatalf("the child says %q", lines.Text())
		}
		acked = n
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the child ended by itself: %v", err)
	}
	return acked
}

func TestSecondProcessIsToldWho(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	out, _ := exec.Command("sh", "-c", "KEDGE_TEST_COMMIT_TO="+path+" "+os.Args[0]).CombinedOutput()
	for _, want := range []string{path, store.ErrOwned.Error(), fmt.Sprintf("process %d has it open", os.Getpid())} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the second process says %q, lacks %q", out, want)
		}
	}
}

// filled makes a store with many records, some large, and gives its file.
func filled(t testing.TB, path string, n int) {
	t.Helper()
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	l, err := s.Own(context.Background(), anchor)
	if err != nil {
		t.Fatal(err)
	}
	var batch []core.Persist
	for i := range n {
		batch = append(batch, core.Persist{Key: fmt.Appendf(nil, "key-%06d", i), Val: bytes.Repeat([]byte{byte(i)}, i%500)})
		if len(batch) == 500 || i == n-1 {
			if _, err := s.Commit(context.Background(), l.Token(), batch); err != nil {
				t.Fatal(err)
			}
			batch = batch[:0]
		}
	}
	if _, err := s.Commit(context.Background(), l.Token(), []core.Persist{{Key: []byte("key-000001")}, {Key: []byte("large"), Val: bytes.Repeat([]byte{9}, 100_000)}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestDamage: whatever happens to the file, it is either refused as damaged or read as it was; it is never changed, and
// the process lives.
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.db")
	filled(t, path, 3000)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	load := func(path string) (map[string]string, error) {
		s, err := Open(path)
		if err != nil {
			return nil, err
		}
		defer s.Close()
		out := map[string]string{}
		for p, err := range s.Load(t.Context(), anchor) {
			if err != nil {
				return nil, err
			}
			out[string(p.Key)] = string(p.Val)
		}
		return out, nil
	}
	want, err := load(path)
	if err != nil || len(want) != 3000 {
		t.Fatalf("%d records, %v", len(want), err)
	}
	try := func(what string, b []byte) (refused bool) {
		t.Helper()
		bad := filepath.Join(dir, "bad.db")
		if err := os.WriteFile(bad, b, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := load(bad)
		var corrupt *store.CorruptError
		switch {
		case errors.As(err, &corrupt):
			if corrupt.Path != bad || !strings.Contains(err.Error(), bad) {
				t.Errorf("%s: error %v does not name the file", what, err)
			}
			if after, _ := os.ReadFile(bad); !bytes.Equal(after, b) {
				t.Errorf("%s: the damaged file was changed", what)
			}
			return true
		case err != nil:
			t.Errorf("%s: error %v is no CorruptError", what, err)
		default:
			for k, v := range got {
				if want[k] != v {
					t.Errorf("%s: record %s was read as %x", what, k, v)
				}
			}
			if len(got) != len(want) {
				t.Errorf("%s: %d records of %d were read without an error", what, len(got), len(want))
			}
		}
		return false
	}
	for _, size := range []int{1, 79, 80, 4095, 4096, 4176, 8191, 8192, 8193, 12288, len(good) / 2, len(good) - 4096} {
		if s := good[:size]; !try(fmt.Sprintf("cut to %d", size), s) && size < len(good)-4096 {
			t.Errorf("cut to %d of %d octets: not refused", size, len(good))
		}
	}
	if !try("text", bytes.Repeat([]byte("this is no store\n"), 1000)) {
		t.Error("a text file is not refused")
	}
	zeroed := bytes.Clone(good)
	clear(zeroed[:8192])
	if !try("both meta pages gone", zeroed) {
		t.Error("a file without meta pages is not refused")
	}
	rng := rand.New(rand.NewPCG(1, 2))
	refused := 0
	for i := range 300 {
		b := bytes.Clone(good)
		at := 8192 + rng.IntN(len(b)-8192)
		if i%2 == 0 {
			at = at/4096*4096 + rng.IntN(512) // headers and elements
		}
		b[at] ^= 1 << rng.IntN(8)
		if try(fmt.Sprintf("bit at %d", at), b) {
			refused++
		}
	}
	t.Logf("%d of 300 single bits refused, the others were in pages that are not used", refused)
	if refused < 50 {
		t.Errorf("only %d of 300 flipped bits were noticed", refused)
	}
	for page := 2; page*4096 < len(good); page++ {
		b := bytes.Clone(good)
		copy(b[page*4096:(page+1)*4096], b[(page/2+1)*4096:])
		try(fmt.Sprintf("page %d overwritten by another", page), b)
	}
}

func TestRecover(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	now := time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)
	s, lost, err := Recover(path, now)
	if err != nil || lost != nil || !s.Fresh() {
		t.Fatalf("first start: %v, %v", lost, err)
	}
	s.Close()
	filled(t, path, 10)
	s, lost, err = Recover(path, now)
	if err != nil || lost != nil || s.Fresh() {
		t.Fatalf("an intact file: %v, %v", lost, err)
	}
	s.Close()
	for i, name := range []string{path + ".lost-20260203T040506Z", path + ".lost-20260203T040506Z-1"} {
		junk := fmt.Appendf(nil, "junk %d %s", i, bytes.Repeat([]byte("x"), 10000))
		if err := os.WriteFile(path, junk, 0o600); err != nil {
			t.Fatal(err)
		}
		s, lost, err = Recover(path, now)
		if err != nil || lost == nil || lost.Moved != name || lost.Err == nil || !s.Fresh() {
			t.Fatalf("damaged file: %+v, %v", lost, err)
		}
		if b, err := os.ReadFile(name); err != nil || !bytes.Equal(b, junk) {
			t.Errorf("the damaged file was not kept: %v", err)
		}
		l, err := s.Own(t.Context(), anchor)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Commit(t.Context(), l.Token(), batchOf(1)); err != nil {
			t.Error(err)
		}
		s.Close()
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "folder") {
		t.Errorf("a folder: %v", err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(filepath.Join(file, "a.db")); err == nil {
		t.Error("a file in a file was opened")
	}
	s, err := Open(file) // an empty file, as `touch` makes it, is a first start
	if err != nil || !s.Fresh() {
		t.Fatalf("empty file: %v", err)
	}
	s.Close()
}

// BenchmarkCommit shows what grouping is worth: one sync for all records of a group.
func BenchmarkCommit(b *testing.B) {
	for _, group := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("group=%d", group), func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "a.db")
			s, err := Open(path)
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			l, err := s.Own(b.Context(), anchor)
			if err != nil {
				b.Fatal(err)
			}
			batch := make([]core.Persist, group)
			val := bytes.Repeat([]byte{1}, 200)
			rng := rand.New(rand.NewPCG(1, 1))
			for b.Loop() {
				for i := range batch {
					batch[i] = core.Persist{Key: binary.BigEndian.AppendUint64([]byte("s/"), rng.Uint64N(100_000)), Val: val}
				}
				if _, err := s.Commit(b.Context(), l.Token(), batch); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(group*b.N)/b.Elapsed().Seconds(), "records/s")
		})
	}
}

// BenchmarkOpen is a restart: verify everything and load it.
func BenchmarkOpen(b *testing.B) {
	const n = 100_000
	path := filepath.Join(b.TempDir(), "a.db")
	filled(b, path, n)
	for b.Loop() {
		s, err := Open(path)
		if err != nil {
			b.Fatal(err)
		}
		for _, err := range s.Load(b.Context(), anchor) {
			if err != nil {
				b.Fatal(err)
			}
		}
		s.Close()
	}
	b.ReportMetric(n*float64(b.N)/b.Elapsed().Seconds(), "records/s")
}
