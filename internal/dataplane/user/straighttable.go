package user

import (
	"net/netip"

	"github.com/google/nftables/expr"

	"kedge/internal/ipsec"
	"kedge/internal/nftmatch"
	"kedge/wire/ip"
)

// What straight takes is dropped in the input hook:
//
//	table ip6 kedge-ro-mn0 {                        # with the name of the plane's device
//		chain taken {
//			type filter hook input priority raw;
//			meta l4proto 135 accept                 # signalling: whoever takes that keeps it from the kernel
//			meta l4proto 50 <SPI below 2^31> accept # at a node: ip6 saddr @anchors; not at a host that is a correspondent only
//			icmpv6 type { 146, 147 } accept         # prefix discovery
//			rt type 2 drop                          # at a node
//			ip6 daddr @local <first destination option is 0xc9> drop
//		}
//	}

func straightName(device string) string { return "kedge-ro-" + device }

// taken are the table's rules, with Home Address options at a node taken where its home addresses are.
func (c *Config) taken(homes []netip.Addr) func(*nftmatch.Rules) error {
	node, local := c.Role == Node, homes
	if c.Role == Anchor {
		local = c.Local // of which few have no session
	}
	return func(r *nftmatch.Rules) error {
		r.Add(expr.VerdictAccept, nftmatch.Upper(ip.Mobility))
		r.Add(expr.VerdictAccept, nftmatch.Upper(ip.ICMPv6), prefixDiscovery())
		if !c.Straight {
			signalling := append(nftmatch.Upper(ip.ESP),
				&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
				&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{byte(ipsec.DataSPI >> 24)}, Xor: []byte{0}},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0}})
			if node && len(c.Anchors) != 0 {
				from, err := r.Among("anchors", nftmatch.Source, c.Anchors)
				if err != nil {
					return err
				}
				signalling = append(signalling, from...)
			}
			r.Add(expr.VerdictAccept, signalling)
		}
		if node {
			r.Add(expr.VerdictDrop, nftmatch.Type2Routing())
		}
		if len(local) == 0 {
			return nil
		}
		to, err := r.Among("local", nftmatch.Destination, local)
		if err != nil {
			return err
		}
		for _, home := range nftmatch.HomeAddress() {
			r.Add(expr.VerdictDrop, home, to)
		}
		return nil
	}
}

// prefixDiscovery matches ICMPv6 types 146 and 147 (RFC 6275 6.7, 6.8), which differ in the last bit.
func prefixDiscovery() []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{0xfe}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{146}},
	}
}
