package config

import "time"

// The shape of node.route-optimization.

type rawOptimization struct {
	at
	Use            leaf[string]              `yaml:"use" doc:"Correspondents that are told where the node is, so that packets need not go by the home agent: traffic: those that the node exchanges IPv6 packets with, while it does; never: none." enum:"traffic|never" def:"traffic"`
	Correspondents list[rawOptimizationRule] `yaml:"correspondents" doc:"What holds for some of them; the longest prefix counts."`
	Limit          leaf[int]                 `yaml:"limit" doc:"Correspondents at a time. When there are as many, one without traffic makes room; packets with more go by the home agent." range:"1..1024" def:"64"`
	Lifetime       leaf[time.Duration]       `yaml:"lifetime" doc:"Lifetime of bindings that correspondents are asked for; a multiple of 4 s." range:"4s..7m" rfc:"RFC 6275 12: MAX_RR_BINDING_LIFETIME" def:"7m"`
}

type rawOptimizationRule struct {
	at
	Prefix leaf[string] `yaml:"prefix" doc:"Prefix or address of correspondents." ex:"\"2001:db8:d::/64\"" req:"1"`
	Use    leaf[string] `yaml:"use" doc:"traffic and never as above; always: told as soon as the node is away, for single addresses." enum:"traffic|never|always" req:"1"`
}
