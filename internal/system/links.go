package system

import (
	"errors"
	"fmt"
	"path"
	"slices"
)

// MaxLinks is how many links a "links" port listens on: patterns may match more than anybody meant.
const MaxLinks = 64

// openLinks opens a port on the links whose names match. None need be there.
func (h *Host) openLinks(patterns []string) (*AccessPort, error) {
	if len(patterns) == 0 {
		return nil, &hinted{errors.New("no pattern given"), `a links port needs patterns of interface names, as "wl*"`}
	}
	for _, p := range patterns {
		if _, err := path.Match(p, ""); err != nil {
			return nil, fmt.Errorf("pattern %q: %w", p, err)
		}
	}
	p := newAccessPort(h, "links")
	p.patterns = slices.Clone(patterns)
	return p.open()
}

// match brings the list of a links port up to date: a link is in it while it is there, is an Ethernet link and its name matches. It
// reports whether to look again soon.
func (p *AccessPort) match() (retry bool) {
	if p.patterns == nil {
		return false
	}
	all, err := p.nl.LinkList()
	if err != nil {
		return true
	}
	there := make(map[int]string)
	for _, l := range all {
		a := l.Attrs()
		// Only what has Ethernet frames has the signalling that is read here; modems with bare IP are the kernel's.
		if a.EncapType == "ether" && slices.ContainsFunc(p.patterns, func(pat string) bool { ok, _ := path.Match(pat, a.Name); return ok }) {
			there[a.Index] = a.Name
		}
	}
	var gone []*accessLink
	p.mu.Lock()
	p.links = slices.DeleteFunc(p.links, func(l *accessLink) bool {
		name, ok := there[l.id]
		if !ok {
			gone = append(gone, l)
			return true
		}
		l.name = name
		delete(there, l.id)
		return false
	})
	for _, l := range all { // in the kernel's order: the oldest links first
		if name, ok := there[l.Attrs().Index]; ok && len(p.links) < MaxLinks {
			p.links = append(p.links, &accessLink{name: name, id: l.Attrs().Index, fd: -1})
		}
	}
	p.mu.Unlock()
	for _, l := range gone {
		p.drop(l)
	}
	return false
}
