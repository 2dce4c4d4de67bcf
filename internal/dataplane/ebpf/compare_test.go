package ebpf

import (
	"testing"

	"kedge/internal/dataplane/conformance"
	engine "kedge/internal/dataplane/conformance/oracle"
)

// TestCompare: the programs and what is behind them do together what the engine does. It needs root.
func TestCompare(t *testing.T) { conformance.Compare(t, factory(false), engine.New, false) }

// TestFuzzed shows the plane packets that nobody should send. It needs root.
func TestFuzzed(t *testing.T) { conformance.Fuzzed(t, factory(false), engine.New, false, "../../..") }

// TestChained runs the matrix of encapsulations of more headers than one. It needs root.
func TestChained(t *testing.T) { conformance.Chained(t, factory(false)) }

// TestOptimized: packets of route optimization are the engine's, whatever programs are attached.
func TestOptimized(t *testing.T) { conformance.Optimized(t, factory(false)) }
