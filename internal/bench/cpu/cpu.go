// Package cpu says what carrying packets costs the processors: cycles where the machine has counters of them, else the time of all
// that works on it, kernel threads for packets included. What interrupts do while a processor is idle is in the cycles only.
package cpu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Meter reads costs so far.
type Meter struct {
	counters []int // perf events, one for each processor
	threads  []int // of the kernel, which carry packets
	lacking  error
}

// Reading of a meter. Only differences mean something.
type Reading struct {
	Nanoseconds uint64
	Cycles      uint64 // 0 if the machine has no counters
}

// Open opens the counters of all processors, if there are any.
func Open() *Meter {
	m := &Meter{threads: kernelThreads("/proc")}
	for i := range runtime.NumCPU() {
		fd, err := unix.PerfEventOpen(&unix.PerfEventAttr{
			Type: unix.PERF_TYPE_HARDWARE, Config: unix.PERF_COUNT_HW_CPU_CYCLES, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{})),
		}, -1, i, -1, unix.PERF_FLAG_FD_CLOEXEC)
		if err != nil {
			m.Close()
			m.counters, m.lacking = nil, fmt.Errorf("this machine gives no CPU cycles (perf_event_open: %w)", err)
			break
		}
		m.counters = append(m.counters, fd)
	}
	return m
}

// Lacking says why there are no cycles; nil = there are.
func (m *Meter) Lacking() error { return m.lacking }

// kernelThreads are those that work for softirqs.
func kernelThreads(proc string) (ids []int) {
	names, _ := filepath.Glob(proc + "/[0-9]*/comm")
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil || !strings.HasPrefix(string(b), "ksoftirqd/") {
			continue
		}
		if id, err := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil {
			ids = append(ids, id)
		}
	}
	return ids
}

// Read reads what all processors counted, and what this process, the given ones and the kernel's threads used.
func (m *Meter) Read(processes ...int) (r Reading, err error) {
	for _, fd := range m.counters {
		var b [8]byte
		if n, err := unix.Read(fd, b[:]); err != nil || n != len(b) {
			return r, errors.Join(errors.New("CPU cycles cannot be read"), err)
		}
		r.Cycles += binary.NativeEndian.Uint64(b[:])
	}
	for _, id := range append(append([]int{os.Getpid()}, m.threads...), processes...) {
		var ts unix.Timespec
		if err := unix.ClockGettime(clockOf(id), &ts); err != nil {
			return r, fmt.Errorf("CPU time of process %d: %w", id, err)
		}
		r.Nanoseconds += uint64(ts.Nano())
	}
	return r, nil
}

// clockOf is the clock of a process' CPU time, all its threads together: clock_getcpuclockid(3), CPUCLOCK_SCHED of the kernel.
func clockOf(pid int) int32 { return int32(^pid<<3) | 2 }

// Close closes the counters.
func (m *Meter) Close() {
	for _, fd := range m.counters {
		_ = unix.Close(fd)
	}
	m.counters = nil
}
