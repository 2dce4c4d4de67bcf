package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"kedge/internal/config"
	"kedge/internal/system"
)

type checkCmd struct {
	Files  []string `arg:"" name:"file" help:"Config files. Several are compared: gateways of one domain must look alike to hosts."`
	NoHost bool     `help:"Leave out what this machine can do." xor:"host"`
	Here   bool     `help:"Fail also if this machine cannot run the daemons of the files." xor:"host"`
}

// checked is what was found in one file.
type checked struct {
	File     string           `json:"file"`
	OK       bool             `json:"ok"`
	Summary  string           `json:"summary,omitempty"`
	Errors   []string         `json:"errors,omitempty"`
	Warnings []config.Warning `json:"warnings,omitempty"`
}

// Run checks files; wrong ones give status 2, with --here a machine that cannot run them status 1.
func (c *checkCmd) Run(e *env) error {
	var report struct {
		Files    []checked        `json:"files"`
		Domain   []string         `json:"domain_errors,omitempty"`
		Warnings []config.Warning `json:"domain_warnings,omitempty"`
		Host     []system.Finding `json:"host,omitempty"`
	}
	var good []*config.Config
	bad := false
	for _, f := range c.Files {
		cfg, warnings, err := config.Load(f)
		r := checked{File: f, OK: err == nil, Warnings: warnings}
		var many config.Errors
		switch {
		case err == nil:
			r.Summary = summary(cfg)
			good = append(good, cfg)
		case errors.As(err, &many):
			for _, x := range many {
				r.Errors = append(r.Errors, x.Error())
			}
		case errors.Is(err, os.ErrNotExist):
			r.Errors = []string{fmt.Sprintf("%s: there is no such file", f)}
		default:
			r.Errors = []string{err.Error()}
		}
		bad = bad || err != nil
		report.Files = append(report.Files, r)
	}
	wrong, warnings := config.CheckDomain(good)
	for _, w := range wrong {
		report.Domain = append(report.Domain, w.Error())
	}
	report.Warnings = append(warnings, keyPairs(good)...)
	unable := false
	if !c.NoHost {
		report.Host = findings(good, c.Here)
		for _, f := range report.Host {
			unable = unable || c.Here && f.Severity == system.Fatal
		}
	}
	if e.json {
		if err := e.print(report); err != nil {
			return err
		}
	} else {
		for _, r := range report.Files {
			for _, x := range r.Errors {
				fmt.Fprintln(e.stdout, x)
			}
			if r.OK {
				fmt.Fprintf(e.stdout, "%s: ok: %s\n", r.File, r.Summary)
			} else {
				fmt.Fprintf(e.stdout, "%s: %s\n", r.File, count(len(r.Errors), "error"))
			}
			for _, w := range r.Warnings {
				fmt.Fprintf(e.stdout, "warning: %s\n", w)
			}
		}
		for _, x := range report.Domain {
			fmt.Fprintln(e.stdout, x)
		}
		for _, w := range report.Warnings {
			fmt.Fprintf(e.stdout, "warning: %s\n", w)
		}
		if err := writeFindings(e, report.Host); err != nil {
			return err
		}
	}
	switch {
	case bad || len(wrong) > 0:
		return errShown(exitUsage)
	case unable:
		return errShown(exitFailed)
	}
	return nil
}

// summary says in a line what a file makes.
func summary(c *config.Config) string {
	var parts []string
	if a := c.Anchor; a != nil {
		parts = append(parts, fmt.Sprintf("anchor %s with %s, %s", c.Name, count(len(a.Pools), "pool"), count(len(a.Subscribers.List), "subscriber")))
	}
	if g := c.Gateway; g != nil {
		parts = append(parts, fmt.Sprintf("gateway %s with %s, %s", c.Name, count(len(g.Access), "access link"), count(len(g.Anchors), "anchor")))
	}
	if n := c.Node; n != nil {
		parts = append(parts, fmt.Sprintf("mobile node %s at home at %s, with %s", c.Name, n.Home.V6.Addr(), n.Anchor.Name))
	}
	return strings.Join(parts, "; ")
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
