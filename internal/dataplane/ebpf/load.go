package ebpf

import (
	"bytes"
	_ "embed" // the compiled programs
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"kedge/internal/dataplane"
)

//go:embed bpf/kedge.o
var object []byte

// layout is the version of bpf/tables.h: what another one pinned is not adopted.
const layout = "5"

// maps are the tables of the programs, arrays as memory that is shared with them.
type maps struct {
	all      map[string]*ebpf.Map
	keys     *ebpf.Map
	locals   *ebpf.Map
	hosts    *ebpf.Map
	bridges  *ebpf.Map
	pairs    *ebpf.Map
	talks    *ebpf.Map
	drops    *ebpf.Map
	control  *control
	sessions []session
	tunnels  []tunnel
	counters []counter
	peers    []uint64
	links    []accessLink
	memory   [][]byte
}

// collection is what is loaded.
type collection struct {
	maps
	programs map[string]*ebpf.Program
	adopted  bool   // the tables of a former process
	closed   func() // instead of closing it; nil = close
}

// load loads programs and tables; tables from the directory pin, if they are there and as large.
func load(c *Config) (_ *collection, err error) {
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(object))
	if err != nil {
		return nil, fmt.Errorf("data plane: the compiled programs: %w", err)
	}
	sessions := uint32(c.Sessions + 1)
	peers := uint32(4096) // so many that two rarely meet
	for peers < 2*sessions {
		peers *= 2
	}
	for name, n := range map[string]uint32{"sessions": sessions, "counters": sessions, "tunnels": 2 * sessions, "keys": uint32(c.Keys), "hosts": sessions, "bridges": sessions, "pairs": uint32(c.Pairs), "peers": peers} {
		spec.Maps[name].MaxEntries = n
	}
	for name, v := range map[string]any{
		"role": uint8(c.Role), "domain": uint32(c.Domain), "fake_clock": c.fakeClock,
		"local_routing": c.LocalRouting, "no_v6_outer": c.EncapsulationLimit != 0, "cross": c.Probe.Cross() == nil,
		"talking": c.Correspondents && c.Role == dataplane.Node,
	} {
		if b, ok := v.(bool); ok {
			v = map[bool]uint8{true: 1}[b]
		}
		if err := spec.Variables[name].Set(v); err != nil {
			return nil, fmt.Errorf("data plane: constant %s: %w", name, err)
		}
	}
	// A role has no use for one of them.
	if c.Role == dataplane.Gateway {
		delete(spec.Programs, "device")
	} else {
		delete(spec.Programs, "access")
	}
	// These processors read and write at any address, also where a kernel was built without telling its verifier (user-mode-linux).
	if runtime.GOARCH == "amd64" || runtime.GOARCH == "arm64" {
		for _, p := range spec.Programs {
			p.Flags |= unix.BPF_F_ANY_ALIGNMENT
		}
	}
	old := pinned(c.Pin, spec)
	defer func() {
		for _, m := range old {
			m.Close()
		}
	}()
	loaded, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: old})
	if err != nil {
		return nil, fmt.Errorf("data plane: load programs: %w", err)
	}
	k := &collection{adopted: len(old) > 0, programs: loaded.Programs}
	k.maps = maps{all: loaded.Maps, keys: loaded.Maps["keys"], locals: loaded.Maps["locals"], hosts: loaded.Maps["hosts"], bridges: loaded.Maps["bridges"], pairs: loaded.Maps["pairs"], talks: loaded.Maps["talks"], drops: loaded.Maps["drops"]}
	defer func() {
		if err != nil {
			k.close()
		}
	}()
	if c.Pin != "" && !k.adopted {
		if err := pin(c.Pin, loaded.Maps); err != nil {
			return nil, err
		}
	}
	var one []control
	err = errors.Join(mapped(k, "control", &one), mapped(k, "sessions", &k.sessions), mapped(k, "tunnels", &k.tunnels),
		mapped(k, "counters", &k.counters), mapped(k, "peers", &k.peers), mapped(k, "access_links", &k.links))
	if err != nil {
		return nil, err
	}
	k.control = &one[0]
	k.control.peersMask = peers - 1
	return k, nil
}

// mapped shares the memory of an array.
func mapped[T any](k *collection, name string, into *[]T) error {
	m := k.all[name]
	var zero T
	if size := (int(m.ValueSize()) + 7) &^ 7; size != int(unsafe.Sizeof(zero)) {
		return fmt.Errorf("data plane: records of %s have %d octets, want %d", name, size, unsafe.Sizeof(zero))
	}
	b, err := unix.Mmap(m.FD(), 0, int(unsafe.Sizeof(zero))*int(m.MaxEntries()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("data plane: memory of %s: %w", name, err)
	}
	k.memory = append(k.memory, b)
	*into = unsafe.Slice((*T)(unsafe.Pointer(&b[0])), m.MaxEntries())
	return nil
}

func (k *collection) close() {
	if k.closed != nil {
		k.closed()
		return
	}
	for _, b := range k.memory {
		_ = unix.Munmap(b)
	}
	k.memory = nil
	for _, p := range k.programs {
		p.Close()
	}
	for _, m := range k.all {
		m.Close()
	}
}

// shared are the tables that outlive a process: all but the programs' own constants.
func shared(spec *ebpf.MapSpec) bool { return spec.Name != "" && spec.Name[0] != '.' }

// pinned opens all tables that a former process pinned; none if one is missing or different.
func pinned(dir string, spec *ebpf.CollectionSpec) map[string]*ebpf.Map {
	if dir == "" {
		return nil
	}
	found := map[string]*ebpf.Map{}
	for name, s := range spec.Maps {
		if !shared(s) {
			continue
		}
		m, err := ebpf.LoadPinnedMap(filepath.Join(dir, layout, name), nil)
		if err == nil {
			found[name] = m
		}
		if err != nil || s.Compatible(m) != nil {
			for _, m := range found {
				m.Close()
			}
			return nil
		}
	}
	return found
}

// pin names the tables in a directory of the BPF file system, in place of whatever is there.
func pin(dir string, all map[string]*ebpf.Map) error {
	if err := Remove(dir); err != nil {
		return err
	}
	at := filepath.Join(dir, layout)
	if err := os.MkdirAll(at, 0o700); err != nil {
		return fmt.Errorf("data plane: %w", err)
	}
	for name, m := range all {
		if name[0] == '.' {
			continue
		}
		if err := m.Pin(filepath.Join(at, name)); err != nil {
			return fmt.Errorf("data plane: pin %s: %w (is a BPF file system mounted at %s?)", name, err, filepath.Dir(dir))
		}
	}
	return nil
}

// Remove ends what a plane left in its directory: programs that are attached by tcx, and tables. It is no error if there is none.
func Remove(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("data plane: %w", err)
	}
	return nil
}
