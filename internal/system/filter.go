package system

import (
	"fmt"

	"golang.org/x/net/bpf"

	"kedge/internal/ipsec"
)

// Offsets of an Ethernet frame that the filter looks at.
const (
	offEtherType = 12
	offNet       = 14
	offFrag4     = offNet + 6 // flags and fragment offset
	offProto4    = offNet + 9
	offNext6     = offNet + 6
	offPayload6  = offNet + 40
)

// step is one instruction of a filter with names instead of distances; yes and no default to the next instruction.
type step struct {
	label   string
	ins     bpf.Instruction
	yes, no string
}

// AccessFilter passes the frames that an access link's signalling needs, whole, and nothing else: ARP; ICMPv6 133-137
// (RFC 4861), 131, 132, 143 (MLD, also behind a hop-by-hop header, RFC 3810 5), echo 128, 129; ICMPv4 echo 0, 8; IPv4 UDP
// to port 67. Fragments do not pass: ND in fragments is forbidden (RFC 6980) and DHCP fits a frame. Frames with a VLAN tag
// belong to another link.
func AccessFilter() ([]bpf.RawInstruction, error) {
	is := func(v uint32) bpf.Instruction { return bpf.JumpIf{Cond: bpf.JumpEqual, Val: v} }
	below := func(v uint32) bpf.Instruction { return bpf.JumpIf{Cond: bpf.JumpLessThan, Val: v} }
	abs := func(off uint32, size int) bpf.Instruction { return bpf.LoadAbsolute{Off: off, Size: size} }
	return assemble([]step{
		{ins: bpf.LoadExtension{Num: bpf.ExtVLANTagPresent}},
		{ins: is(0), no: "drop"},
		{ins: abs(offEtherType, 2)},
		{ins: is(0x0806), yes: "pass"},
		{ins: is(0x0800), yes: "ipv4"},
		{ins: is(0x86dd), yes: "ipv6", no: "drop"},

		{label: "ipv4", ins: abs(offFrag4, 2)},
		{ins: bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x3fff}, yes: "drop"}, // more fragments, or an offset
		{ins: bpf.LoadMemShift{Off: offNet}},                               // X = header length
		{ins: abs(offProto4, 1)},
		{ins: is(1), yes: "icmp4"},
		{ins: is(17), no: "drop"},
		{ins: bpf.LoadIndirect{Off: offNet + 2, Size: 2}}, // UDP destination port
		{ins: is(67), yes: "pass", no: "drop"},
		{label: "icmp4", ins: bpf.LoadIndirect{Off: offNet, Size: 1}},
		{ins: is(8), yes: "pass"},
		{ins: is(0), yes: "pass", no: "drop"},

		{label: "ipv6", ins: abs(offNext6, 1)},
		{ins: is(58), yes: "icmp6"},
		{ins: is(0), no: "drop"},
		{ins: abs(offPayload6, 1)}, // next header of the hop-by-hop header
		{ins: is(58), no: "drop"},
		{ins: abs(offPayload6+1, 1)}, // its length in units of 8 octets, not counting the first
		{ins: bpf.ALUOpConstant{Op: bpf.ALUOpShiftLeft, Val: 3}},
		{ins: bpf.ALUOpConstant{Op: bpf.ALUOpAdd, Val: 8}},
		{ins: bpf.TAX{}},
		{ins: bpf.LoadIndirect{Off: offPayload6, Size: 1}},
		{ins: bpf.Jump{}, yes: "mld"},

		{label: "icmp6", ins: abs(offPayload6, 1)},
		{ins: is(128), yes: "pass"},
		{ins: is(129), yes: "pass"},
		{ins: below(133), yes: "mld"},
		{ins: below(138), yes: "pass"},
		{label: "mld", ins: is(143), yes: "pass"},
		{ins: is(131), yes: "pass"},
		{ins: is(132), yes: "pass", no: "drop"},

		{label: "pass", ins: bpf.RetConstant{Val: 1 << 18}},
		{label: "drop", ins: bpf.RetConstant{Val: 0}},
	})
}

// LinkFilter passes what a node needs to hear on its links, whole, and nothing else: ARP, and ICMPv6 133-137 (RFC 4861) without
// extension headers, which Neighbor Discovery has none of (RFC 6980 is about fragments). Data of any kind stays out, so that it
// costs nothing.
func LinkFilter() ([]bpf.RawInstruction, error) {
	is := func(v uint32) bpf.Instruction { return bpf.JumpIf{Cond: bpf.JumpEqual, Val: v} }
	below := func(v uint32) bpf.Instruction { return bpf.JumpIf{Cond: bpf.JumpLessThan, Val: v} }
	abs := func(off uint32, size int) bpf.Instruction { return bpf.LoadAbsolute{Off: off, Size: size} }
	return assemble([]step{
		{ins: bpf.LoadExtension{Num: bpf.ExtVLANTagPresent}},
		{ins: is(0), no: "drop"},
		{ins: abs(offEtherType, 2)},
		{ins: is(0x0806), yes: "pass"},
		{ins: is(0x86dd), no: "drop"},
		{ins: abs(offNext6, 1)},
		{ins: is(58), no: "drop"},
		{ins: abs(offPayload6, 1)},
		{ins: below(133), yes: "drop"},
		{ins: below(138), yes: "pass", no: "drop"},

		{label: "pass", ins: bpf.RetConstant{Val: 1 << 18}},
		{label: "drop", ins: bpf.RetConstant{Val: 0}},
	})
}

// espFilter passes ESP of signalling to an IPv6 raw socket, and none of data: its SPIs have the bit ipsec.DataSPI, and the data
// plane has sockets of its own. The packet begins with its ESP header.
func espFilter() ([]bpf.RawInstruction, error) {
	return assemble([]step{
		{ins: bpf.LoadAbsolute{Off: 0, Size: 4}},
		{ins: bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: ipsec.DataSPI}, yes: "drop"},
		{label: "pass", ins: bpf.RetConstant{Val: 1 << 18}},
		{label: "drop", ins: bpf.RetConstant{Val: 0}},
	})
}

// assemble turns names into distances. Jumps go forward only.
func assemble(steps []step) ([]bpf.RawInstruction, error) {
	at := make(map[string]int)
	for i, s := range steps {
		if s.label != "" {
			at[s.label] = i
		}
	}
	prog := make([]bpf.Instruction, len(steps))
	for i, s := range steps {
		j, ok := s.ins.(bpf.JumpIf)
		if _, always := s.ins.(bpf.Jump); always {
			j, ok = bpf.JumpIf{Cond: bpf.JumpEqual}, true
			s.no = s.yes
		}
		if !ok {
			prog[i] = s.ins
			continue
		}
		for _, d := range []struct {
			to   string
			skip *uint8
		}{{s.yes, &j.SkipTrue}, {s.no, &j.SkipFalse}} {
			if d.to == "" {
				continue
			}
			n := at[d.to] - i - 1
			if _, ok := at[d.to]; !ok || n < 0 || n > 255 {
				return nil, fmt.Errorf("filter: step %d cannot jump to %q", i, d.to)
			}
			*d.skip = uint8(n)
		}
		prog[i] = j
	}
	return bpf.Assemble(prog)
}
