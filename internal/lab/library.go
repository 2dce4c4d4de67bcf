package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"kedge/internal/lab/scenario"
	"kedge/lab/scenarios"
)

// Find loads a scenario by name, from those built in, or by file name, and says where its templates are.
func Find(name string) (*scenario.Scenario, func(string) ([]byte, error), error) {
	if strings.ContainsRune(name, '/') || strings.HasSuffix(name, ".yaml") {
		s, err := scenario.Load(name)
		return s, templates(filepath.Dir(name)), err
	}
	src, err := scenarios.FS.ReadFile(name + ".yaml")
	if err != nil {
		return nil, nil, fmt.Errorf("no scenario %q: \"kedge lab list\" shows all; a file needs a slash or .yaml", name)
	}
	s, err := scenario.Parse("lab/scenarios/"+name+".yaml", src)
	return s, templates(""), err
}

// templates reads config templates beside a scenario file, else those built in.
func templates(dir string) func(string) ([]byte, error) {
	return func(name string) ([]byte, error) {
		if filepath.Base(name) != name {
			return nil, fmt.Errorf("template %q: want a plain file name", name)
		}
		if dir != "" {
			b, err := os.ReadFile(filepath.Join(dir, "templates", name))
			if !errors.Is(err, os.ErrNotExist) {
				return b, err
			}
		}
		return scenarios.FS.ReadFile("templates/" + name)
	}
}

// All lists the scenarios that are built in, by name. The error joins the mistakes of all files.
func All() ([]*scenario.Scenario, error) {
	files, err := fs.Glob(scenarios.FS, "*.yaml")
	if err != nil {
		return nil, err
	}
	slices.Sort(files)
	var out []*scenario.Scenario
	var errs []error
	for _, f := range files {
		s, _, err := Find(strings.TrimSuffix(f, ".yaml"))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if s.Name+".yaml" != f {
			errs = append(errs, fmt.Errorf("lab/scenarios/%s: its scenario is called %q: name both alike", f, s.Name))
		}
		out = append(out, s)
	}
	return out, errors.Join(errs...)
}
