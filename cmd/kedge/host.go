package main

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"kedge/internal/config"
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
		if g := c.Gateway; g != nil {
			n.Addresses = append(n.Addresses, g.Address.String())
			for _, x := range g.Access {
				n.Access = append(n.Access, x.Interface)
			}
		}
	}
	return append(system.Checks(n), keys...)
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
