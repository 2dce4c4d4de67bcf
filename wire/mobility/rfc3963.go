package mobility

import (
	"iter"
	"net/netip"
)

// MobileNetworkPrefix is a prefix behind a mobile router, RFC 3963 4.3.
type MobileNetworkPrefix struct{ Prefix netip.Prefix }

func (MobileNetworkPrefix) OptionType() OptionType { return OptMobileNetworkPrefix }

func (v MobileNetworkPrefix) appendTLV(b []byte) []byte {
	return appendPrefix(append(b, byte(OptMobileNetworkPrefix), 18), v.Prefix)
}

func decodeMobileNetworkPrefix(o Option) MobileNetworkPrefix {
	return MobileNetworkPrefix{prefix(o.Data)}
}

// MobileNetworkPrefix reads the first such option.
func (o Options) MobileNetworkPrefix() (MobileNetworkPrefix, bool) {
	return read(o, OptMobileNetworkPrefix, decodeMobileNetworkPrefix)
}

// MobileNetworkPrefixes gives the prefixes of all such options.
func (o Options) MobileNetworkPrefixes() iter.Seq[netip.Prefix] {
	return o.prefixes(OptMobileNetworkPrefix)
}

// prefixes gives the prefixes of the two options that hold one.
func (o Options) prefixes(t OptionType) iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		for opt := range o.All() {
			if opt.Type == t && opt.check() == "" && !yield(prefix(opt.Data)) {
				return
			}
		}
	}
}
