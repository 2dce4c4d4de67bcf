package ebpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Probe asks a kernel what it can do: nil = yes. The zero value asks the one that runs.
type Probe struct {
	Kernel   func() string // its version
	Programs func() error  // classifiers with the helpers that the fast path calls
	TCX      func() error
	Cross    func() error // packets that change their family when they leave a tunnel
}

// Unsupported says what a kernel lacks. It unwraps the cause.
type Unsupported struct {
	Feature string // "classifier programs (BPF)"
	Kernel  string // "6.18.44"
	Err     error
}

func (u *Unsupported) Error() string {
	return fmt.Sprintf("data plane: kernel %s has no %s, or this process may not use them: %v", u.Kernel, u.Feature, u.Err)
}

func (u *Unsupported) Unwrap() error { return u.Err }

func (p Probe) withDefaults() Probe {
	if p.Kernel == nil {
		p.Kernel = kernelVersion
	}
	if p.Programs == nil {
		p.Programs = havePrograms
	}
	if p.TCX == nil {
		p.TCX = haveTCX
	}
	if p.Cross == nil {
		p.Cross = haveCross
	}
	return p
}

// Ability is what a kernel can do for the fast path.
type Ability struct {
	Kernel  string
	Attach  string // "tcx", or "clsact" before Linux 6.6; "" = there is no fast path
	Cross   bool   // IPv4 in IPv6 and IPv6 in IPv4 too, Linux 6.4
	Lacking error  // an *Unsupported if there is no fast path
}

// Ask finds out what the kernel can do.
func (p Probe) Ask() Ability {
	p = p.withDefaults()
	a := Ability{Kernel: p.Kernel()}
	if err := p.Programs(); err != nil {
		a.Lacking = &Unsupported{"classifier programs (BPF)", a.Kernel, err}
		return a
	}
	a.Attach, a.Cross = "tcx", p.Cross() == nil
	if p.TCX() != nil {
		a.Attach = "clsact"
	}
	return a
}

func kernelVersion() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "of unknown version"
	}
	return unix.ByteSliceToString(u.Release[:])
}

func havePrograms() error {
	for _, f := range []asm.BuiltinFunc{
		asm.FnSkbAdjustRoom, asm.FnFibLookup, asm.FnRedirect, asm.FnRedirectNeigh, asm.FnSkbChangeHead, asm.FnSkbChangeTail, asm.FnSkbPullData,
		asm.FnKtimeGetCoarseNs, asm.FnSetHash,
	} {
		if err := features.HaveProgramHelper(ebpf.SchedCLS, f); err != nil {
			return fmt.Errorf("%v: %w", f, err)
		}
	}
	return nil
}

// haveTCX attaches to an interface that cannot be: a kernel that knows tcx looks for the interface.
func haveTCX() error {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "Apache-2.0", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}})
	if err != nil {
		return err
	}
	defer prog.Close()
	l, err := link.AttachTCX(link.TCXOptions{Interface: 1<<31 - 1, Program: prog, Attach: ebpf.AttachTCXIngress})
	if err == nil {
		l.Close()
		return nil
	}
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// haveCross takes an IPv6 header off an IPv4 packet: older kernels do not know the flag.
func haveCross() error {
	const ipv4 = 1 << 7 // BPF_F_ADJ_ROOM_DECAP_L3_IPV4
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		asm.Mov.Imm(asm.R2, -40), asm.Mov.Imm(asm.R3, 1), asm.Mov.Imm(asm.R4, ipv4), asm.FnSkbAdjustRoom.Call(), asm.Return(),
	}})
	if err != nil {
		return err
	}
	defer prog.Close()
	pkt := make([]byte, 14+40+20)
	pkt[12], pkt[13], pkt[14], pkt[54] = 0x86, 0xdd, 0x60, 0x45
	ret, _, err := prog.Test(pkt)
	if err == nil && ret != 0 {
		err = fmt.Errorf("adjust_room: %w", unix.Errno(-int32(ret)))
	}
	return err
}
