package user

import (
	"testing"

	"kedge/internal/dataplane/conformance"
	"kedge/internal/dataplane/conformance/kernel"
	"kedge/internal/dataplane/conformance/oracle"
)

// TestCompare: with real sockets and devices around it, the engine does what it does without. It needs root.
func TestCompare(t *testing.T) {
	conformance.Compare(t, kernel.Factory(openPlane), oracle.New, true)
}

// TestFuzzed shows the plane packets that nobody should send. It needs root.
func TestFuzzed(t *testing.T) {
	conformance.Fuzzed(t, kernel.Factory(openPlane), oracle.New, true, "../../..")
}

// TestChained runs the matrix of encapsulations of more headers than one. It needs root.
func TestChained(t *testing.T) { conformance.Chained(t, kernel.Factory(openPlane)) }

// TestOptimized runs that of route optimization: what the kernel would refuse is taken before it looks. It needs root.
func TestOptimized(t *testing.T) { conformance.Optimized(t, kernel.Factory(openPlane)) }
