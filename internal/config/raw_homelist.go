package config

import (
	"net/netip"
	"time"
)

// The shape of anchor.discovery.
type rawDiscovery struct {
	at
	Preference     leaf[int]           `yaml:"preference" doc:"Preference among the home agents of the home link: a higher one is told to nodes before lower ones." range:"0..65535" rfc:"RFC 6275 7.4" def:"0"`
	Lifetime       leaf[time.Duration] `yaml:"lifetime" doc:"How long other home agents list this one after they have heard it last." range:"1s..65535s" rfc:"RFC 6275 7.4" def:"30m"`
	Advertise      leaf[bool]          `yaml:"advertise" doc:"Send Router Advertisements on home-link.interface, so that other home agents and nodes at home find this one. Hosts there form addresses of the prefixes and, unless router-lifetime is 0s, take it as a default router." def:"false"`
	Interval       leaf[time.Duration] `yaml:"interval" doc:"MaxRtrAdvInterval: longest time between two of them." range:"70ms..30m" rfc:"RFC 4861 6.2.1, RFC 6275 7.5" def:"10m"`
	MinInterval    leaf[time.Duration] `yaml:"min-interval" doc:"MinRtrAdvInterval: shortest time. Default: a third of interval." range:"30ms..22m30s" rfc:"RFC 4861 6.2.1, RFC 6275 7.5"`
	MinDelay       leaf[time.Duration] `yaml:"min-delay" doc:"MinDelayBetweenRAs: shortest time between those that hosts ask for. Default: 3s, or min-interval where that is less." range:"30ms..10m" rfc:"RFC 6275 13"`
	RouterLifetime leaf[time.Duration] `yaml:"router-lifetime" doc:"How long hosts of the link take the anchor as a default router; 0s: not at all. Default: three times interval." range:"0s..9000s" rfc:"RFC 4861 6.2.1"`
	Managed        leaf[bool]          `yaml:"managed" doc:"M flag: addresses of the home link come from DHCPv6." def:"false"`
	Other          leaf[bool]          `yaml:"other" doc:"O flag: DHCPv6 has other settings of the home link." def:"false"`
	Prefixes       list[rawHomePrefix] `yaml:"prefixes" doc:"Prefixes of the home link, with lifetimes that count whatever routers advertise. Those of the interface need not be here."`
	Requests       leaf[rate]          `yaml:"requests" doc:"Requests for home agents that are answered (RFC 6275 10.5), from anybody; 5/s of them from one /64." range:"1/s..10000/s" def:"100/s"`
	Announce       leaf[bool]          `yaml:"prefix-advertisements" doc:"Tell mobile nodes that are away of the prefixes of the home link (RFC 6275 10.6)." def:"true"`
	MinPrefix      leaf[time.Duration] `yaml:"prefix-min-interval" doc:"MinMobPfxAdvInterval: a change is told after this time at the earliest, spread over the time to prefix-max-interval or the end of the preferred lifetime." range:"1s..24h" rfc:"RFC 6275 13" def:"10m"`
	MaxPrefix      leaf[time.Duration] `yaml:"prefix-max-interval" doc:"MaxMobPfxAdvInterval: after so long without one a node is told unasked." range:"1s..720h" rfc:"RFC 6275 13" def:"24h"`
}

type rawHomePrefix struct {
	at
	Prefix     leaf[netip.Prefix]  `yaml:"prefix" doc:"The prefix." ex:"\"2001:db8:2000::/64\"" req:"1" family:"6"`
	Valid      leaf[time.Duration] `yaml:"valid" doc:"Valid lifetime; no binding of a home address in it lasts longer." range:"0s..87600h" rfc:"RFC 4861 6.2.1" def:"720h"`
	Preferred  leaf[time.Duration] `yaml:"preferred" doc:"Preferred lifetime; 0s: nodes are to use home addresses of other prefixes for what is new." range:"0s..87600h" rfc:"RFC 4861 6.2.1" def:"168h"`
	OnLink     leaf[bool]          `yaml:"on-link" doc:"L flag." def:"true"`
	Autonomous leaf[bool]          `yaml:"autonomous" doc:"A flag: hosts form addresses by SLAAC." def:"true"`
}
