package network

import (
	"errors"

	"kedge/internal/system/ethtool"
	"kedge/internal/system/netns"
)

// Segment makes the tunnel's link cut super packets before they leave, in both directions, as a link without segmentation
// offload does; or lets it carry them whole again.
func (n *Network) Segment(cut bool) error {
	segment := func(ns *netns.NS) error {
		return ns.Do(func() error { return ethtool.Set(CoreLink, !cut, ethtool.Segmentation...) })
	}
	return errors.Join(segment(n.Gateway), segment(n.Anchor))
}
