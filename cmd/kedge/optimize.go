package main

import (
	"kedge/internal/config"
	"kedge/internal/node/optimize"
)

// nodeOptimization maps node.route-optimization.
func nodeOptimization(o *config.Optimization) optimize.Config {
	out := optimize.Config{Use: useOf(o.Use), Limit: o.Limit, Lifetime: o.Lifetime}
	for _, r := range o.Rules {
		out.Correspondents = append(out.Correspondents, optimize.Rule{Prefix: r.Prefix, Use: useOf(r.Use)})
	}
	return out
}

func useOf(s string) optimize.Use {
	switch s {
	case config.OptimizeTraffic:
		return optimize.Traffic
	case config.OptimizeAlways:
		return optimize.Always
	}
	return optimize.Never
}
