// Package scenarios holds the lab's networks, one YAML file each, and the config templates that they use. The language is
// described in internal/lab/scenario.
package scenarios

import "embed"

// FS has NAME.yaml for each scenario and templates/.
//
//go:embed *.yaml templates/*.yaml
var FS embed.FS
