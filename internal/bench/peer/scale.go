package peer

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"kedge/internal/bench/way"
	"kedge/internal/core"
)

// updateBatch is how many sessions one call of Update moves.
const updateBatch = 1 << 12

// update moves sessions, at random, to another gateway's address, and then back. Only the calls of Update count as time.
func (e *end) update(n int, a *Answer) error {
	all := max(1, e.open.Way.Sessions)
	first, ops := rand.IntN(all), make([]core.Op, 0, updateBatch)
	// A step that has no factor in common with the number of sessions visits each once, in an order that no cache likes.
	step := 7919 % all
	for step < all && gcd(step, all) != 1 {
		step++
	}
	runtime.GC()
	for _, to := range []way.Side{way.Second, way.Gateway} {
		for done := 0; done < n/2; done += len(ops) {
			ops = ops[:0]
			for i := done; i < min(n/2, done+updateBatch); i++ {
				id := (first+i%all*step)%all + 1
				ops = append(ops, core.SetSession{ID: core.ID(id), Chain: e.encap.Chain(way.Anchor, to, id), Grace: way.Grace})
			}
			start := time.Now()
			if err := e.plane.Update(ops); err != nil {
				return err
			}
			a.Seconds += time.Since(start).Seconds()
			a.Updates += len(ops)
		}
	}
	return nil
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// memory is what the BPF tables of this process take in the kernel, as it counts them itself.
func (e *end) memory(a *Answer) error {
	if e.ebpf == nil {
		return errors.New("this plane has no tables in the kernel")
	}
	names, err := filepath.Glob("/proc/self/fdinfo/*")
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // closed meanwhile
		}
		id, octets, err := tableOf(b)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if id != "" && !seen[id] {
			seen[id] = true
			a.Octets += octets
		}
	}
	return nil
}

// tableOf reads what the kernel says of a file descriptor: id "" if it is no BPF table.
func tableOf(fdinfo []byte) (id string, octets uint64, err error) {
	for s := bufio.NewScanner(bytes.NewReader(fdinfo)); s.Scan(); {
		key, value, _ := strings.Cut(s.Text(), ":")
		switch value = strings.TrimSpace(value); key {
		case "map_id":
			id = value
		case "memlock":
			if octets, err = strconv.ParseUint(value, 10, 64); err != nil {
				return "", 0, err
			}
		}
	}
	if id == "" {
		return "", 0, nil // programs have memory as well
	}
	return id, octets, nil
}
