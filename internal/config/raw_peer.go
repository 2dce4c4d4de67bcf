package config

import (
	"net/netip"
	"time"
)

// The shape of what concerns correspondents.

type rawCorrespondent struct {
	at
	Addresses   list[leaf[netip.Addr]]   `yaml:"addresses" doc:"Own addresses that mobile nodes may use route optimization with. Default: every IPv6 address that this host has when the daemon starts; beside node, its home addresses only." ex:"[\"2001:db8:d::99\"]" family:"6"`
	Accept      list[leaf[netip.Prefix]] `yaml:"accept" doc:"Home addresses that may be bound; Binding Updates for others get status 129. Default: all." ex:"[\"2001:db8:2000::/48\"]"`
	Table       leaf[int]                `yaml:"table" doc:"First of the routing tables that lead to bound home addresses, 65 of them." range:"256..1000000000" def:"10900"`
	LifetimeMax leaf[time.Duration]      `yaml:"lifetime-max" doc:"Longest lifetime of a binding (MAX_RR_BINDING_LIFETIME)." range:"4s..7m" rfc:"RFC 6275 12: 420 s" def:"7m"`
	Limits      rawCorrespondentLimits   `yaml:"limits" doc:"Bounds of what strangers can make this node hold or do."`
}

type rawCorrespondentLimits struct {
	at
	Bindings leaf[int]  `yaml:"bindings" doc:"Bindings; when there are as many, one that carries nothing makes room, or the new one is refused with status 130 (RFC 6275 9.6)." range:"1..1000000" def:"10000"`
	Requests leaf[rate] `yaml:"requests" doc:"Test messages of all together, and as many Binding Updates; a network (/64) has a tenth of it." range:"1/s..1000000/s" def:"1000/s"`
}
