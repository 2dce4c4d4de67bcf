package config

import (
	"net/netip"
	"time"
)

// The shape of what concerns mobile nodes: their protection, the home agent's service, and the node itself.

type rawPeer struct {
	at
	Name       leaf[string]       `yaml:"name" doc:"Name that the rest of the file refers to." ex:"mag1" req:"1"`
	Addresses  list[leaf[string]] `yaml:"addresses" doc:"Addresses or prefixes that it speaks from. A mobile node has none: it is known by its key and home address." ex:"[\"2001:db8:a::11\"]"`
	Protection leaf[string]       `yaml:"protection" doc:"none: signalling is neither authenticated nor encrypted; logged at start and shown in status." enum:"none" ex:"none"`
	ESP        *rawESP            `yaml:"esp" doc:"ESP with static keys (RFC 4301, RFC 4303, RFC 3776). kedge keys writes both ends."`
	RFC4285    *rawRFC4285        `yaml:"rfc4285" doc:"Authentication by mobility options (RFC 4285), where IPsec is not wanted; nothing is encrypted."`
	IKE        later              `yaml:"ike" doc:"ESP with IKEv2." later:"IKEv2"`
}

type rawESP struct {
	at
	SPIIn   leaf[spi]    `yaml:"spi-in" doc:"Security Parameters Index of what comes from the peer: its spi-out." ex:"0x101" req:"1" range:"256..4294967295" rfc:"RFC 4303 2.1: 1 to 255 are reserved"`
	SPIOut  leaf[spi]    `yaml:"spi-out" doc:"Security Parameters Index of what goes to the peer: its spi-in." ex:"0x102" req:"1" range:"256..4294967295" rfc:"RFC 4303 2.1: 1 to 255 are reserved"`
	Suite   leaf[string] `yaml:"suite" doc:"Encryption and integrity, the same at both ends. null-sha256 encrypts nothing; aes128-sha1 is for interoperation only." enum:"aes128-sha256|aes256-sha256|aes256-sha384|aes256-sha512|null-sha256|aes128-sha1" never:"gcm: static keys and GCM do not go together: \"implementations MUST use an automated key management system\" (RFC 4106 2)" def:"aes128-sha256"`
	KeyFile leaf[string] `yaml:"key-file" doc:"File with the keys, readable by its owner only. A relative path begins at this file's directory." ex:"keys/mag1" req:"1"`

	ReturnRoutability *rawReturnRoutability `yaml:"return-routability" doc:"ESP in tunnel mode around the Home Test Init and Home Test messages of a mobile node, in the tunnel between it and its home agent (RFC 6275 5.2.5); what comes without is dropped. Both ends have it or neither. Without, they go in the clear there."`
	PrefixDiscovery   *rawPrefixDiscovery   `yaml:"prefix-discovery" doc:"Associations of their own for Mobile Prefix Solicitations and Advertisements. Without, those of signalling protect them (RFC 4877 6.3)."`
}

type rawRFC4285 struct {
	at
	SPI     leaf[spi]    `yaml:"spi" doc:"Mobility SPI, the same at both ends." ex:"0x201" req:"1" range:"256..4294967295" rfc:"RFC 4285 5.1: above 255"`
	KeyFile leaf[string] `yaml:"key-file" doc:"File with the key, readable by its owner only. A relative path begins at this file's directory." ex:"keys/laptop" req:"1"`
}

type rawDSMIP6 struct {
	at
	Addresses     list[leaf[netip.Addr]] `yaml:"addresses" doc:"Home agent addresses, of anchor.addresses; requests to another one get status 131. Default: all of IPv6." ex:"[\"2001:db8:a::1\"]" family:"6"`
	Dialects      list[leaf[string]]     `yaml:"dialects" doc:"Forms of signalling over IPv4 that are answered, each in kind." enum:"rfc5555|draft-soliman-00" def:"rfc5555"`
	Families      list[leaf[string]]     `yaml:"families" doc:"Families of home addresses; without v4 the IPv4 home address option is answered with status 129." enum:"v4|v6" def:"v4 v6"`
	ForceUDP      leaf[string]           `yaml:"force-udp" doc:"A node that asks for UDP encapsulation without a NAT (F flag) gets it, or the answer 144 (RFC 5555 4.1); always: every node over IPv4 is told to use it." enum:"allow|refuse|always" def:"allow"`
	NATRefresh    leaf[time.Duration]    `yaml:"nat-refresh" doc:"Time between keepalives that a node behind a NAT is told (NATKATIMEOUT)." range:"1s..262140s" rfc:"RFC 5555 6: 110 s" def:"110s"`
	RefreshAdvice leaf[time.Duration]    `yaml:"refresh-advice" doc:"Time after which a node is advised to refresh (Binding Refresh Advice, RFC 6275 6.2.4). Default: no advice." range:"4s..262140s"`
	RefreshAsk    leaf[time.Duration]    `yaml:"refresh-request" doc:"Time before the end of a binding when the node is asked for a new one (Binding Refresh Request, RFC 6275 9.5.5); 0s: never." range:"0s..1h" def:"0s"`
	MessageID     leaf[string]           `yaml:"message-id" doc:"Timestamps of nodes with rfc4285 (RFC 4285 6): checked where a node sends them, or required (status 145)." enum:"accept|require" def:"accept"`
	MessageWindow leaf[time.Duration]    `yaml:"message-id-window" doc:"How far such a timestamp may be from our clock." range:"3s..1h" rfc:"RFC 4285 5.1: 7 s" def:"7s"`
	PrivateCareOf leaf[string]           `yaml:"private-care-of" doc:"A private IPv4 care-of address without a NAT between cannot be reached from the Internet: discard such requests, or accept them, in laboratories." enum:"discard|accept" def:"discard"`
}

type rawNode struct {
	at
	Anchor      rawNodeAnchor            `yaml:"anchor" doc:"Home agent." ex:"{ name: ha1, addresses: [\"2001:db8:a::1\", 198.51.100.1] }" req:"1"`
	Home        rawHome                  `yaml:"home" doc:"Home addresses, as the home agent's subscribers.list has them." ex:"{ v6: \"2001:db8:2000::5/64\" }" req:"1"`
	ID          leaf[string]             `yaml:"id" doc:"Network access identifier that goes into requests (RFC 4283). Default: none." ex:"laptop@example.net"`
	Links       list[rawLink]            `yaml:"links" doc:"Links that the node may use; the first that matches an interface counts." ex:"[ { match: \"wl*\" } ]" req:"1"`
	Exclude     list[leaf[netip.Prefix]] `yaml:"exclude" doc:"Destinations that never go through the tunnel. What is on the link, DHCP and the home agent itself never do." ex:"[192.168.0.0/16]"`
	RetryV4     leaf[bool]               `yaml:"retry-v4" doc:"Ask a home agent again for an IPv4 home address that left the request without answer once: it may have learned it since." def:"false"`
	Table       leaf[int]                `yaml:"table" doc:"First of the routing tables that the node uses, 512 of them." range:"256..1000000000" def:"10700"`
	Unreachable leaf[string]             `yaml:"unreachable" doc:"While the home agent cannot be reached: block what would go through the tunnel, or let it pass outside, from the address of the visited network." enum:"block|pass" def:"block"`
	DNS         leaf[string]             `yaml:"dns" doc:"Questions to name servers go through the tunnel, or directly to those of the visited network." enum:"tunnel|direct" def:"tunnel"`
	UDP         leaf[string]             `yaml:"udp" doc:"Data over IPv4 in UDP: when a NAT or a filter is found, or always (F flag, RFC 5555 4.1)." enum:"auto|always" def:"auto"`
	Optimize    *rawOptimization         `yaml:"route-optimization" doc:"Direct packets between the node and correspondents of IPv6 while it is in networks that have IPv6 (RFC 6275 11.7.2). Without this section none; {} is for all that there is traffic with."`
	Timers      rawNodeTimers            `yaml:"timers" doc:"Lifetimes, probes and retransmission."`
}

type rawNodeAnchor struct {
	at
	Name         leaf[string]           `yaml:"name" doc:"Name of the home agent in security.peers." ex:"ha1" req:"1"`
	Addresses    list[leaf[netip.Addr]] `yaml:"addresses" doc:"Its addresses: one of IPv6, and one of IPv4 for IPv4 networks. With discover, those to begin with; with host, none." ex:"[\"2001:db8:a::1\", 198.51.100.1]"`
	Discover     leaf[bool]             `yaml:"discover" doc:"Ask the home network for its home agents (RFC 6275 11.4.1), from IPv6 networks only, and go over to the next one when one fails." def:"false"`
	Host         leaf[string]           `yaml:"host" doc:"Name of the home agent, whose A and AAAA records are asked of the name servers of the visited network (RFC 5555 2.1)." ex:"ha.example.net"`
	Others       list[leaf[string]]     `yaml:"others" doc:"Names in security.peers of further home agents that may be found, each with its own keys and addresses." ex:"[ha2]"`
	Dialect      leaf[string]           `yaml:"dialect" doc:"Form of signalling over IPv4." enum:"rfc5555|draft-soliman-00" def:"rfc5555"`
	OptionLength leaf[string]           `yaml:"option-length" doc:"Length field of the options of draft-soliman-00: its literal 1, or the number of octets." enum:"literal|octets" def:"literal"`
}

type rawHome struct {
	at
	V6         leaf[string]             `yaml:"v6" doc:"IPv6 home address with the length of its home prefix." ex:"\"2001:db8:2000::5/64\"" req:"1"`
	V4         leaf[string]             `yaml:"v4" doc:"IPv4 home address, with or without the length of its network; dynamic: the home agent gives one; none." ex:"10.20.0.5/16" def:"dynamic"`
	Prefixes   list[leaf[netip.Prefix]] `yaml:"prefixes" doc:"Prefixes that the home network may be renumbered to. When the home prefix is deprecated the node has a home address on the first of them that the home network offers, with the same interface identifier; the home agent knows that as a home address of the node too." ex:"[\"2001:db8:2001::/64\"]"`
	Networks   list[leaf[netip.Prefix]] `yaml:"networks" doc:"Mobile network prefixes of both families: the node is a mobile router for what lies behind it (RFC 3963)." ex:"[\"2001:db8:3000::/56\", 10.30.0.0/24]"`
	Mode       leaf[string]             `yaml:"mode" doc:"Requests name the IPv6 networks, or leave it to the home agent, which knows them (RFC 3963 5.2). Those of IPv4 are always named (RFC 5555 3.1.1)." enum:"explicit|implicit" def:"explicit"`
	Interfaces list[leaf[string]]       `yaml:"interfaces" doc:"Interfaces that lead to the networks: what comes from there with a source outside of them is not forwarded (RFC 3963 9)." ex:"[lan0]"`
}

type rawLink struct {
	at
	Match    leaf[string]       `yaml:"match" doc:"Interface name, or a pattern of names with * and ?." ex:"\"wl*\"" req:"1"`
	Prefer   leaf[int]          `yaml:"prefer" doc:"Rank among the links that are usable; less is better." range:"0..1000" def:"100"`
	Families list[leaf[string]] `yaml:"families" doc:"Families of care-of addresses that are taken from the link." enum:"v4|v6" def:"v4 v6"`
}

type rawNodeTimers struct {
	at
	Lifetime       leaf[time.Duration] `yaml:"lifetime" doc:"Lifetime that is asked for; a multiple of 4 s." range:"4s..262140s" rfc:"16 bits of 4 s, RFC 6275 6.1.7" def:"10m"`
	RefreshAt      leaf[float64]       `yaml:"refresh-at" doc:"Part of the lifetime after which a binding is refreshed." range:"0.1..0.95" def:"0.8"`
	DeadPath       leaf[time.Duration] `yaml:"dead-path" doc:"Longest time until a path that carries nothing any more is noticed, by echoes through the tunnel." range:"500ms..5m" def:"3s"`
	FamilyFallback leaf[time.Duration] `yaml:"family-fallback" doc:"Time without answer over IPv6 after which IPv4 is tried too; two known round trips if that is less." range:"50ms..1m" def:"300ms"`
	NATRefresh     leaf[time.Duration] `yaml:"nat-refresh" doc:"Longest time between keepalives behind a NAT; the home agent may ask for less." range:"1s..1h" rfc:"RFC 5555 6: 110 s" def:"110s"`
	FirstTimeout   leaf[time.Duration] `yaml:"first-registration" doc:"InitialBindackTimeoutFirstReg: time to the first repetition without a binding; the home agent may look for duplicates of the home address." range:"100ms..1m" rfc:"RFC 6275 13: 1.5 s" def:"1500ms"`
	Retransmit     rawRetransmit       `yaml:"retransmit" doc:"Registrations without answer (RFC 6275 11.8)."`
}
