package cpu

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// TestRead burns CPU time and wants it read, and no more than the clock of the process says.
func TestRead(t *testing.T) {
	m := Open()
	defer m.Close()
	m.threads = nil // what the machine's kernel does meanwhile is not this test's
	before, err := m.Read()
	if err != nil {
		t.Fatal(err)
	}
	own := func() int64 {
		var ts unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts); err != nil {
			t.Fatal(err)
		}
		return ts.Nano()
	}
	start := own()
	for x := 0; own()-start < 2e6; x++ {
	}
	after, err := m.Read()
	if err != nil {
		t.Fatal(err)
	}
	used := after.Nanoseconds - before.Nanoseconds
	if most := uint64(own() - start + 1e6); used < 2e6 || used > most+2e6 {
		t.Errorf("%d ns were read, of at least 2000000 and at most about %d", used, most)
	}
	if got := after.Cycles > before.Cycles; got != (m.Lacking() == nil) {
		t.Errorf("cycles counted: %v, but lacking: %v", got, m.Lacking())
	}
	if _, err := m.Read(1<<22 + 1); err == nil {
		t.Error("a process that does not exist has used time")
	}
}

func TestKernelThreads(t *testing.T) {
	proc := t.TempDir()
	for id, name := range map[string]string{"12": "ksoftirqd/0\n", "30": "ksoftirqd/1\n", "40": "kworker/0:1\n", "self": "ksoftirqd/9\n"} {
		if err := os.MkdirAll(filepath.Join(proc, id), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(proc, id, "comm"), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got := kernelThreads(proc)
	slices.Sort(got)
	if !slices.Equal(got, []int{12, 30}) {
		t.Errorf("threads %v", got)
	}
	if len(kernelThreads("/proc")) == 0 {
		t.Error("this kernel has no threads for softirqs?")
	}
}
