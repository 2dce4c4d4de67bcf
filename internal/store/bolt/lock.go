package bolt

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"kedge/internal/store"
)

// lock takes the same lock as bbolt, waiting as long as it does.
func lock(f *os.File) error {
	for end := time.Now().Add(lockWait); ; time.Sleep(20 * time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err != unix.EWOULDBLOCK {
			return err
		}
		if time.Now().After(end) {
			return store.ErrOwned
		}
	}
}

// holder names the process that has the file locked, if it can be found.
func holder(path string) string {
	var st unix.Stat_t
	f, err := os.Open("/proc/locks")
	if err != nil || unix.Stat(path, &st) != nil {
		return ""
	}
	defer f.Close()
	file := fmt.Sprintf("%02x:%02x:%d", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		// 1: FLOCK  ADVISORY  WRITE 1234 fe:00:262147 0 EOF
		if w := strings.Fields(lines.Text()); len(w) >= 6 && w[1] == "FLOCK" && w[5] == file {
			return ": process " + w[4] + " has it open"
		}
	}
	return ""
}

// syncDir makes a new file's name durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
