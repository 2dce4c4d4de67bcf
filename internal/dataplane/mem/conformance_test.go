package mem_test

import (
	"testing"

	"kedge/internal/dataplane/conformance"
	"kedge/internal/dataplane/conformance/oracle"
)

func TestConformance(t *testing.T) { conformance.Run(t, oracle.New) }

func TestChained(t *testing.T) { conformance.Chained(t, oracle.New) }

func TestOptimized(t *testing.T) { conformance.Optimized(t, oracle.New) }
