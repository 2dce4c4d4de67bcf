package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"regexp"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"kedge/internal/dataplane"
)

// programs has the kernel's verifier look at every program of the fast path, with every value of what its loader sets, and says how much work
// that is.
func programs(args []string) error {
	if len(args) != 1 {
		return errors.New("want the object file")
	}
	object, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	var errs []error
	for _, role := range []dataplane.Role{dataplane.Anchor, dataplane.Gateway, dataplane.Node} {
		into := "device"
		if role == dataplane.Gateway {
			into = "access"
		}
		for _, name := range []string{"core", into, "joined"} {
			for bits := range uint8(8) {
				set := map[string]uint8{"role": uint8(role), "local_routing": bits & 1, "no_v6_outer": bits >> 1 & 1, "talking": bits >> 2 & 1, "cross": 0}
				errs = append(errs, verify(object, name, set))
			}
		}
	}
	return errors.Join(errs...)
}

var effort = regexp.MustCompile(`processed \d+ insns`)

func verify(object []byte, name string, set map[string]uint8) error {
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(object))
	if err != nil {
		return err
	}
	for k, v := range set {
		if err := spec.Variables[k].Set(v); err != nil {
			return fmt.Errorf("%s: %w", k, err)
		}
	}
	for n, p := range spec.Programs {
		if n != name {
			delete(spec.Programs, n)
		}
		p.Flags |= unix.BPF_F_ANY_ALIGNMENT // as the loader has it on these processors
	}
	for _, m := range spec.Maps {
		if m.MaxEntries == 0 || m.MaxEntries > 4096 { // the loader's choice
			m.MaxEntries = 4096
		}
	}
	c, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{Programs: ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats}})
	if err != nil {
		return fmt.Errorf("%s with %v: %w", name, set, err)
	}
	defer c.Close()
	fmt.Printf("%s with %v: %s\n", name, set, effort.FindString(c.Programs[name].VerifierLog))
	return nil
}
