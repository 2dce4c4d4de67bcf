package lab

import (
	"context"
	"strings"
)

// flushes are what people and network managers do to a machine that a mobile node has set up. Who flushes rules puts the kernel's
// own back.
var flushes = map[string][]string{
	"rules": {
		"rule flush", "rule add pref 32766 lookup main", "rule add pref 32767 lookup default",
		"-6 rule flush", "-6 rule add pref 32766 lookup main",
	},
	"addresses": {"addr flush dev kedge0", "-6 addr flush dev eth0 scope global"},
	"routes":    {"route flush table 10700", "-6 route flush table 10700", "route flush table 10800", "-6 route flush table 10800"},
}

// flush removes what is not the lab's from a node, all kinds in one batch each.
func (r *Run) flush(ctx context.Context, n *node, what string) error {
	for _, cmd := range flushes[what] {
		if _, err := n.ns.Run(ctx, "ip", strings.Fields(cmd)...); err != nil && !strings.Contains(err.Error(), "No such file") && !strings.Contains(err.Error(), "does not exist") {
			return err
		}
	}
	return nil
}
