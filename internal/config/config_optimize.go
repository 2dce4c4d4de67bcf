package config

import (
	"net/netip"
	"time"
)

// Values of Optimization.Use and OptimizationRule.Use.
const (
	OptimizeNever   = "never"
	OptimizeTraffic = "traffic"
	OptimizeAlways  = "always"
)

// Optimization is which correspondents of a node are told where it is (RFC 6275 11.7.2).
type Optimization struct {
	Use   string // "" = never
	Rules []OptimizationRule
	Limit int // correspondents
	// Lifetime of bindings that is asked for.
	Lifetime time.Duration
}

// OptimizationRule is what holds for correspondents in a prefix; the longest one counts.
type OptimizationRule struct {
	Prefix netip.Prefix
	Use    string
}
