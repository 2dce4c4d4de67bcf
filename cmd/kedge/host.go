package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"kedge/internal/config"
	"kedge/internal/dataplane/pins"
	"kedge/internal/system"
)

// findings says what this machine can do for daemons of these files. Interfaces and addresses are looked for only if one
// file is checked: several files are for several machines.
func findings(cfgs []*config.Config, here bool) []system.Finding {
	var n system.Needs
	var keys []system.Finding
	for _, c := range cfgs {
		n.Anchor = n.Anchor || c.Anchor != nil
		n.Gateway = n.Gateway || c.Gateway != nil
		n.Node = n.Node || c.Node != nil
		n.Peer = n.Peer || c.Peer != nil
		n.HomeAgent = n.HomeAgent || c.Anchor != nil && c.Anchor.DSMIP6 != nil
		n.Guarded = n.Guarded || protected(c)
		if len(cfgs) > 1 && !here {
			continue
		}
		keys = append(keys, keyFindings(c)...)
		if a := c.Anchor; a != nil {
			for _, x := range a.Addresses {
				n.Addresses = append(n.Addresses, x.String())
			}
		}
		if p := c.Peer; p != nil && c.Node == nil {
			for _, x := range p.Addresses {
				n.Addresses = append(n.Addresses, x.String())
			}
		}
		if g := c.Gateway; g != nil {
			n.Addresses = append(n.Addresses, g.Address.String())
			for _, x := range g.Access {
				n.Access = append(n.Access, x.Interface)
			}
		}
	}
	return slices.Concat(system.Checks(n), planeFindings(cfgs), keys)
}

// planeFindings says which data planes this machine can run. Only one that a file insists on is fatal to be without.
func planeFindings(cfgs []*config.Config) []system.Finding {
	fast, tcx := false, false
	missing := system.Advice
	for _, c := range cfgs {
		kind := c.Dataplane.Kind
		fast = fast || kind != config.PlaneUser
		tcx = tcx || c.Dataplane.Attach == config.AttachTCX
		if kind == config.PlaneEBPF {
			missing = system.Fatal
		}
	}
	var out []system.Finding
	if fast {
		able := kernel.Ask()
		programs := system.Finding{Name: "data plane in the kernel", Detail: "Linux " + able.Kernel + " attaches programs by " + able.Attach, Feature: "back end ebpf"}
		switch {
		case able.Lacking != nil:
			programs.Severity, programs.Detail = missing, reason(able.Lacking)
			programs.Do = "run as root, or with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, on Linux 5.12 or later with CONFIG_BPF_SYSCALL; without, packets are forwarded in the process"
		case !mayCompare():
			programs.Severity, programs.Detail = missing, noPerfmon
			programs.Do = "run as root, or add CAP_PERFMON; without, packets are forwarded in the process"
		case tcx && able.Attach != config.AttachTCX:
			programs.Severity, programs.Do = missing, "write attach: auto, or run Linux 6.6 or later"
		case able.Attach != config.AttachTCX:
			programs.Detail += ": tcx came with Linux 6.6"
		}
		out = append(out, programs)
		if able.Lacking == nil {
			cross := system.Finding{Name: "tunnels of the other family", Detail: "the kernel takes them off", Feature: "IPv4 in IPv6 and IPv6 in IPv4 with back end ebpf"}
			if !able.Cross {
				cross.Severity, cross.Detail = system.Advice, "the kernel does not take them off: that came with Linux 6.4"
				cross.Do = "nothing: the process does it"
			}
			out = append(out, cross, pinsFinding())
		}
	}
	return append(out, system.CheckForwarding()...) // back end ebpf leaves to user what its programs do not know
}

const noPerfmon = "the process has neither CAP_PERFMON nor CAP_SYS_ADMIN: the kernel refuses programs that compare pointers"

// mayCompare reports whether the verifier takes programs that compare pointers, as those of the fast path do.
func mayCompare() bool {
	return system.CheckCapability("CAP_PERFMON", unix.CAP_PERFMON).Severity == system.Fine || system.CheckCapability("CAP_SYS_ADMIN", unix.CAP_SYS_ADMIN).Severity == system.Fine
}

// pinsFinding says whether forwarding in the kernel outlives the process. It mounts nothing.
func pinsFinding() system.Finding {
	f := system.Finding{Name: "BPF file system", Detail: "is mounted", Feature: "restarts without a lost packet"}
	if err := pins.Available(); err != nil {
		f.Severity, f.Detail = system.Advice, err.Error()
		f.Do = "mount -t bpf bpf /sys/fs/bpf; kedge run does so as root, outside containers"
	}
	return f
}

// keyFindings says which key files of a config are missing, open to others or wrong.
func keyFindings(c *config.Config) []system.Finding {
	_, err := securityPeers(c)
	var wrong config.Errors
	errors.As(err, &wrong)
	bad := map[string]*config.Error{}
	for _, w := range wrong {
		i, _, _ := strings.Cut(w.Key, "]")
		bad[i+"]"] = w
	}
	var out []system.Finding
	for i, p := range c.Peers {
		file := cmp.Or(p.ESP.KeyFile, p.RFC4285.KeyFile)
		if file == "" {
			continue
		}
		f := system.Finding{Name: "key file " + file, Detail: "readable by its owner only, and whole", Feature: "signalling with " + p.Name}
		if w := bad[fmt.Sprintf("security.peers[%d]", i)]; w != nil {
			f.Severity, f.Detail, f.Do = system.Fatal, w.Problem, w.Want
		}
		out = append(out, f)
	}
	return out
}

// writeFindings writes a line a finding, and below it what to do.
func writeFindings(e *env, list []system.Finding) error {
	if len(list) == 0 {
		return nil
	}
	wide := 0
	for _, f := range list {
		wide = max(wide, len(f.Name))
	}
	fmt.Fprintln(e.stdout, "\nthis machine")
	for _, f := range list {
		if _, err := fmt.Fprintf(e.stdout, "  %-6s  %-*s  %s\n", f.Severity, wide, f.Name, f.Detail); err != nil {
			return err
		}
		if f.Severity == system.Fine {
			continue
		}
		if f.Feature != "" {
			fmt.Fprintf(e.stdout, "  %-6s  %-*s  it is for %s\n", "", wide, "", f.Feature)
		}
		if f.Do != "" {
			fmt.Fprintf(e.stdout, "  %-6s  %-*s  to do: %s\n", "", wide, "", f.Do)
		}
	}
	return nil
}
