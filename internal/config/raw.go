package config

import (
	"net/netip"
	"time"

	"kedge/internal/core"
)

// The shape of a file. Tags: yaml (key), doc (meaning), def (default), req (must be written), ex (how a value looks),
// range, rfc (where a range or default comes from), enum, later (known, but not in this version), family, single.
type rawFile struct {
	at
	Version   leaf[int]         `yaml:"version" doc:"Shape of this file." ex:"1" req:"1" range:"1..1"`
	Name      leaf[string]      `yaml:"name" doc:"Name of this daemon: log key self, metric label, id of the virtual anchor in the store." ex:"lma1" req:"1"`
	API       rawAPI            `yaml:"api" doc:"Control API."`
	Log       rawLog            `yaml:"log" doc:"Log on standard error."`
	Events    rawEvents         `yaml:"events" doc:"Event stream: one JSON object a line."`
	Store     rawStore          `yaml:"store" doc:"Where sessions survive a restart."`
	Dataplane rawDataplane      `yaml:"dataplane" doc:"Forwarding. A single word is short for kind: dataplane: auto." short:"kind"`
	Security  rawSecurity       `yaml:"security" doc:"Who is trusted. Nowhere else is trust written."`
	Anchor    *rawAnchor        `yaml:"anchor" doc:"Local mobility anchor (RFC 5213 5, RFC 5844 3.1)."`
	Gateway   *rawGateway       `yaml:"gateway" doc:"Mobile access gateway (RFC 5213 6, RFC 5844 3.2)."`
	Node      *rawNode          `yaml:"node" doc:"Mobile node (RFC 6275 11, RFC 5555 4.4)."`
	Peer      *rawCorrespondent `yaml:"peer" doc:"Correspondent node: mobile nodes exchange packets with this host directly (RFC 6275 9). {} takes every default."`
}

type rawAPI struct {
	at
	Socket  leaf[string]         `yaml:"socket" doc:"Unix socket, mode 0660. Default: /run/kedge/NAME.sock." ex:"/run/kedge/lma1.sock"`
	Metrics leaf[netip.AddrPort] `yaml:"metrics" doc:"TCP address that serves /metrics and /healthz and nothing else. Default: none; the socket serves both."`
}

type rawLog struct {
	at
	Level  leaf[string] `yaml:"level" doc:"Least severe level that is logged." enum:"debug|info|warn|error" def:"info"`
	Format leaf[string] `yaml:"format" doc:"One line a record as key=value, or as JSON." enum:"text|json" def:"text"`
	Redact leaf[bool]   `yaml:"redact" doc:"Shorten identifiers of hosts in log and events." def:"false"`
}

type rawEvents struct {
	at
	File leaf[string] `yaml:"file" doc:"File that the events are appended to. Default: none." ex:"/var/log/kedge/lma1.jsonl"`
	Keep leaf[int]    `yaml:"keep" doc:"Recent events that the API can replay." range:"16..1000000" def:"4096"`
}

type rawStore struct {
	at
	Kind leaf[string] `yaml:"kind" doc:"bolt is one file that outlives kill -9; mem forgets at a restart." enum:"bolt|mem" later:"etcd: a store for clusters" def:"bolt"`
	Path leaf[string] `yaml:"path" doc:"File of bolt. Default: /var/lib/kedge/NAME.db." ex:"/var/lib/kedge/lma1.db"`
}

type rawDataplane struct {
	at
	Kind           leaf[string]        `yaml:"kind" doc:"Back end. ebpf forwards in the kernel, and does not start where the kernel cannot; user forwards in this process, and touches no BPF; auto is ebpf where the kernel can, else user, and kedge status says why." enum:"auto|ebpf|user" def:"auto"`
	Core           list[leaf[string]]  `yaml:"core" doc:"Interfaces towards the core network, which no access link may be, by name or by pattern with * and ?. Packets follow the routes; back end ebpf takes those of tunnels from these interfaces. Default: every Ethernet interface that is no access link." ex:"[core0]"`
	Device         leaf[string]        `yaml:"device" doc:"TUN interface: an anchor routes its pools to it, on a node it carries the home addresses." def:"kedge0"`
	UplinkGrace    leaf[time.Duration] `yaml:"uplink-grace" doc:"How long packets from the previous gateway or care-of address are still let in after a handover; 0s follows RFC 6275 10.4.5 to the letter." range:"0s..10s" def:"500ms"`
	MTU            leaf[int]           `yaml:"mtu" doc:"MTU of the path between gateway or node and anchor. Default: discovered." range:"1280..65535"`
	Sessions       leaf[int]           `yaml:"sessions" doc:"Sessions that the tables of back end ebpf hold, some 500 octets of kernel memory each; this process forwards what is beyond. Default: 65536 on an anchor, limits.hosts on a gateway, 64 on a node." range:"16..4000000"`
	ThroughStack   leaf[string]        `yaml:"through-stack" doc:"Packets to and from home addresses pass the rules of netfilter and connection tracking of an anchor's host although back end ebpf could forward them at once; auto: while there are any rules." enum:"auto|on|off" def:"auto"`
	ReceiveOffload leaf[bool]          `yaml:"receive-offload" doc:"Back end ebpf puts segments of TCP together that leave tunnels one by one, as network cards do (GRO), so that what follows costs once and not for each. For this it has two interfaces, kedge-*-in and kedge-*-out." def:"true"`
	Hold           leaf[time.Duration] `yaml:"hold" doc:"How long back end ebpf forwards on after this process has died, until it is started again." range:"1s..24h" def:"10m"`
	Attach         leaf[string]        `yaml:"attach" doc:"How programs of back end ebpf are attached; auto: by tcx where the kernel has it (Linux 6.6), else by clsact." enum:"auto|tcx|clsact" def:"auto"`
}

type rawSecurity struct {
	at
	Peers list[rawPeer] `yaml:"peers" doc:"Parties that may speak with us. Of several that hold an address the longest prefix counts."`
}

type rawAnchor struct {
	at
	Addresses          list[leaf[netip.Addr]] `yaml:"addresses" doc:"Addresses of the anchor (LMAA); at least one of IPv6. One of IPv4 serves nodes of dsmip6 in IPv4 networks." ex:"[\"2001:db8:a::1\", 198.51.100.1]" req:"1"`
	HomeLink           rawHomeLink            `yaml:"home-link" doc:"The home network on the core side."`
	Discovery          *rawDiscovery          `yaml:"discovery" doc:"How mobile nodes find home agents and the prefixes of their home link (RFC 6275 10.5, 10.6). {} takes every default; without it nobody is answered."`
	Pools              list[rawPool]          `yaml:"pools" doc:"Ranges that home network prefixes and IPv4 home addresses come from." ex:"[ { name: v4, prefix: 10.20.0.0/16 } ]" req:"1"`
	Services           rawServices            `yaml:"services" doc:"What the anchor offers, to whom." ex:"{ pmip6: { gateways: [mag1] } }" req:"1"`
	Subscribers        rawSubscribers         `yaml:"subscribers" doc:"Who is served."`
	PrefixesPerSession leaf[int]              `yaml:"prefixes-per-session" doc:"Home network prefixes that a session gets, unless its profile says." range:"1..8" def:"1"`
	Heartbeat          rawHeartbeat           `yaml:"heartbeat" doc:"Heartbeats to gateways that have sessions (RFC 5847)."`
	Limits             rawAnchorLimits        `yaml:"limits" doc:"Bounds of what strangers can make the anchor hold."`
	Timers             rawAnchorTimers        `yaml:"timers" doc:"RFC 5213 9.1, RFC 5846 11."`
}

type rawHomeLink struct {
	at
	DAD       leaf[int]           `yaml:"dad-transmits" doc:"DupAddrDetectTransmits: how often a home address of services.dsmip6 is asked for on the link before its first binding (RFC 6275 10.3.1); 0: not at all." range:"0..10" rfc:"RFC 4862 5.1" def:"1"`
	Retrans   leaf[time.Duration] `yaml:"retrans-timer" doc:"RetransTimer: how long an answer is waited for." range:"100ms..10s" rfc:"RFC 4861 10" def:"1s"`
	Interface leaf[string]        `yaml:"interface" doc:"Interface where single home addresses (IPv4, IPv6 of pools with delegate: 128) are answered for by proxy ARP and proxy ND. Home network prefixes need routes to the anchor in any case; none: so do all." def:"none"`
}

type rawPool struct {
	at
	Name     leaf[string]        `yaml:"name" doc:"Name: metric label, and what subscribers refer to." ex:"v4" req:"1"`
	Domain   leaf[core.Domain]   `yaml:"domain" doc:"Routing domain; pools of different domains may overlap." def:"0"`
	Prefix   leaf[netip.Prefix]  `yaml:"prefix" doc:"The range, IPv4 or IPv6." ex:"10.20.0.0/16" req:"1"`
	Delegate leaf[int]           `yaml:"delegate" doc:"IPv6: length of the prefix that a session gets. Hosts form addresses by SLAAC only in a /64; 128 is for hosts with an address of their own configuration." range:"1..128" def:"64"`
	Router   leaf[netip.Addr]    `yaml:"router" doc:"IPv4: default router of the home network, given to hosts (RFC 5844 3.3.3). Default: the first address. Never handed out." family:"4"`
	Lease    leaf[time.Duration] `yaml:"lease" doc:"IPv4: lease of addresses that mobile nodes get; bounds the lifetime of their bindings (RFC 5555 2.5). Default: none." range:"4s..262140s" ex:"1h"`
	Reserve  list[leaf[string]]  `yaml:"reserve" doc:"Addresses or prefixes that are never handed out dynamically." ex:"[10.20.0.1]"`
}

type rawServices struct {
	at
	PMIP6  *rawPMIP6  `yaml:"pmip6" doc:"Proxy Mobile IPv6."`
	DSMIP6 *rawDSMIP6 `yaml:"dsmip6" doc:"Dual-stack Mobile IPv6: the anchor is a home agent (RFC 6275 10, RFC 5555 4.2). {} takes every default."`
	MIP4   later      `yaml:"mip4" doc:"Mobile IPv4." later:"Mobile IPv4 (home agent)"`
}

type rawPMIP6 struct {
	at
	Gateways list[leaf[string]] `yaml:"gateways" doc:"Names of security.peers that may register hosts." ex:"[mag1]" req:"1"`
	Dialects list[leaf[string]] `yaml:"dialects" doc:"Forms of the IPv4 options that are answered, each in kind." enum:"rfc5844|draft-pmip6-v4-02" def:"rfc5844 draft-pmip6-v4-02"`
	Families list[leaf[string]] `yaml:"families" doc:"Families that the home network routes; a request for another one is refused with status 170 or 172 (RFC 5844 3.1.2)." enum:"v4|v6" def:"v4 v6"`
	Revoke   leaf[bool]         `yaml:"revoke" doc:"Tell the gateway that a host has left that another one has it (RFC 5846), so that the host can come back at any time." def:"true"`
	Stamps   leaf[bool]         `yaml:"mobile-node-timestamps" doc:"MobileNodeGeneratedTimestampInUse (RFC 5213 9.3): timestamps come from hosts' clocks, the validity window is not checked." def:"false"`
	Local    leaf[netip.Addr]   `yaml:"link-local" doc:"Router's address on access links, answered to gateways that ask for one: the router.link-local of ours, FixedMAGLinkLocalAddressOnAllAccessLinks." family:"6" rfc:"RFC 5213 9.3, RFC 6543" def:"fe80::200:5eff:fe00:5213"`
}

type rawSubscribers struct {
	at
	Default  leaf[string]        `yaml:"default" doc:"What happens to a host that is not in the list." enum:"refuse|accept" def:"refuse"`
	Families list[leaf[string]]  `yaml:"families" doc:"Families that hosts get which are not in the list." enum:"v4|v6" def:"v4 v6"`
	List     list[rawSubscriber] `yaml:"list" doc:"Policy profiles."`
}

type rawSubscriber struct {
	at
	ID       leaf[string]             `yaml:"id" doc:"MN-Identifier (RFC 4283), a network access identifier." ex:"\"02-00-00-00-00-0a@example.net\"" req:"1"`
	Domain   leaf[core.Domain]        `yaml:"domain" doc:"Routing domain of the host." def:"0"`
	Families list[leaf[string]]       `yaml:"families" doc:"Families that the host may have." enum:"v4|v6" def:"v4 v6"`
	PMIP6    leaf[bool]               `yaml:"pmip6" doc:"Network-based mobility. false: requests for the host are refused with status 152 (RFC 5213 5.3.1)." def:"true"`
	V4       leaf[string]             `yaml:"v4" doc:"IPv4 home address; pool: drawn from a pool; none: the host has none." ex:"10.20.0.10" def:"pool"`
	HoA      leaf[string]             `yaml:"hoa" doc:"IPv6 home address with the length of its home prefix: the host is a mobile node of services.dsmip6." ex:"\"2001:db8:2000::5/64\""`
	Peer     leaf[string]             `yaml:"peer" doc:"Name of the one in security.peers that may register hoa: another one's ESP, however right, is not this host's." ex:"laptop"`
	Networks list[leaf[netip.Prefix]] `yaml:"networks" doc:"Mobile network prefixes of both families that the node may register as a mobile router, each as it stands here (RFC 3963 6.1.2, RFC 5555 3.1.1). Of no other host, and they hold no home address." ex:"[\"2001:db8:3000::/56\", 10.30.0.0/24]"`
	HNP      list[leaf[string]]       `yaml:"hnp" doc:"Home network prefix or a list of them; pool: drawn from a pool." ex:"\"2001:db8:1000:1::/64\"" def:"pool" single:"1"`
	Pools    list[leaf[string]]       `yaml:"pools" doc:"Pools to draw from. With several IPv4 pools each interface of the host draws from another one. Default: any pool of the domain." ex:"[v4]"`
	Prefixes leaf[int]                `yaml:"prefixes" doc:"Home network prefixes that a session gets. Default: prefixes-per-session." range:"1..8"`
	Gateways list[leaf[string]]       `yaml:"gateways" doc:"Names of security.peers where the host may be. Default: all of the service." ex:"[mag1]"`
}

type rawHeartbeat struct {
	at
	Interval   leaf[time.Duration] `yaml:"interval" doc:"HEARTBEAT_INTERVAL; 0s switches heartbeats off." range:"0s..24h" rfc:"RFC 5847 5: 30 s to 3600 s" def:"60s"`
	Timeout    leaf[time.Duration] `yaml:"timeout" doc:"Time from an unanswered heartbeat to the next one. Default: the interval." range:"100ms..24h"`
	MaxMissing leaf[int]           `yaml:"max-missing" doc:"MISSING_HEARTBEATS_ALLOWED." range:"1..100" rfc:"RFC 5847 5" def:"3"`
}

type rawAnchorLimits struct {
	at
	Sessions           leaf[int]  `yaml:"sessions" doc:"Sessions in all." range:"1..10000000" def:"1000000"`
	SessionsPerGateway leaf[int]  `yaml:"sessions-per-gateway" doc:"Sessions of one gateway." range:"1..10000000" def:"100000"`
	RequestsPerPeer    leaf[rate] `yaml:"requests-per-peer" doc:"Requests of one peer." range:"1/s..1000000/s" def:"2000/s"`
	PendingPerPeer     leaf[int]  `yaml:"pending-per-peer" doc:"Requests of one peer that wait (MaxDelayBeforeNewBCEAssign)." range:"1..100000" def:"1000"`
}

type rawAnchorTimers struct {
	at
	LifetimeMax leaf[time.Duration] `yaml:"lifetime-max" doc:"Longest lifetime that is granted." range:"4s..262140s" rfc:"16 bits of 4 s, RFC 6275 6.1.7" def:"1h"`
	MinDelay    leaf[time.Duration] `yaml:"min-delay-before-bce-delete" doc:"MinDelayBeforeBCEDelete." range:"0s..1h" rfc:"RFC 5213 9.1" def:"10s"`
	MaxDelay    leaf[time.Duration] `yaml:"max-delay-before-new-bce-assign" doc:"MaxDelayBeforeNewBCEAssign." range:"0s..1m" rfc:"RFC 5213 9.1" def:"1500ms"`
	Window      leaf[time.Duration] `yaml:"timestamp-window" doc:"TimestampValidityWindow." range:"1ms..1h" rfc:"RFC 5213 9.1" def:"300ms"`
	BRIRetries  leaf[int]           `yaml:"bri-max-retries" doc:"BRIMaxRetriesNumber: how often a revocation without answer is sent again." range:"0..10" rfc:"RFC 5846 11" def:"1"`
	BRIDelay    leaf[time.Duration] `yaml:"init-min-delay-bris" doc:"InitMINDelayBRIs: time to the first repetition; doubled each time." range:"500ms..1m" rfc:"RFC 5846 11" def:"1s"`
	BRITimeout  leaf[time.Duration] `yaml:"max-brack-timeout" doc:"MAX_BRACK_TIMEOUT: longest time between two." range:"500ms..1m" rfc:"RFC 5846 11" def:"2s"`
}

type rawGateway struct {
	at
	Address      leaf[netip.Addr]   `yaml:"address" doc:"Proxy-CoA: source of signalling and end of the tunnels, IPv6." ex:"\"2001:db8:a::11\"" req:"1" family:"6" why:"IPv4 transport between gateway and anchor is not in this version: write an IPv6 address"`
	Anchors      list[rawAnchorRef] `yaml:"anchors" doc:"Anchors; the first serves hosts whose profile names none." ex:"[ { name: lma1, address: \"2001:db8:a::1\" } ]" req:"1"`
	Access       list[rawAccess]    `yaml:"access" doc:"Access links." ex:"[ { interface: acc0 } ]" req:"1"`
	LocalRouting leaf[bool]         `yaml:"local-routing" doc:"EnableMAGLocalRouting (RFC 5213 6.10.3): hosts of this gateway reach each other without the anchor." def:"false"`
	FirstHI      leaf[int]          `yaml:"first-handoff-indicator" doc:"Handoff indicator of an attachment without context: 4 (handoff state unknown) or 1 (attachment over a new interface), as the figures of draft-premec have it." enum:"4|1" def:"4"`
	IPv4On       leaf[string]       `yaml:"ipv4-on" doc:"When an IPv4 home address is asked for: with the first registration, or when the host asks by DHCP." enum:"attach|dhcp" def:"attach"`
	Ordering     leaf[string]       `yaml:"ordering" doc:"TimestampBasedApproachInUse (RFC 5213 9.3): requests carry a Timestamp option, or only a sequence number." enum:"timestamp|sequence" def:"timestamp"`
	Revoke       leaf[bool]         `yaml:"revoke" doc:"Give up the session of a host when its anchor says that another gateway has it, or that it has ended (RFC 5846)." def:"true"`
	Heartbeat    rawHeartbeat       `yaml:"heartbeat" doc:"Heartbeats to anchors that hold sessions of ours (RFC 5847)."`
	Limits       rawGatewayLimits   `yaml:"limits" doc:"Bounds of what hosts can make the gateway hold."`
	Timers       rawGatewayTimers   `yaml:"timers" doc:"Lifetimes and retransmission."`
}

type rawAnchorRef struct {
	at
	Name    leaf[string]     `yaml:"name" doc:"Name of the anchor in security.peers." ex:"lma1" req:"1"`
	Address leaf[netip.Addr] `yaml:"address" doc:"Address of the anchor (LMAA)." ex:"\"2001:db8:a::1\"" req:"1" family:"6" why:"IPv4 transport between gateway and anchor is not in this version: write an IPv6 address"`
	Dialect leaf[string]     `yaml:"dialect" doc:"Form of the IPv4 options; auto tries rfc5844 first." enum:"auto|rfc5844|draft-pmip6-v4-02" def:"auto"`
}

type rawAccess struct {
	at
	Interface  leaf[string]           `yaml:"interface" doc:"Access interface. The kernel must have no address on it." ex:"acc0" req:"1"`
	Router     rawRouter              `yaml:"router" doc:"What hosts see as their router: the same on every gateway of the domain, or a silent move breaks their connections."`
	Technology leaf[string]           `yaml:"technology" doc:"Access Technology Type (RFC 5213 8.5)." enum:"virtual|ppp|ethernet|wlan|wimax" def:"ethernet"`
	AttachOn   list[leaf[string]]     `yaml:"attach-on" doc:"Signs of a host that attaches. Stock hosts send nothing but MLD reports or data after a carrier flap." enum:"rs|ns|na|arp|dhcp|mld|data|link|api" def:"rs ns na arp dhcp mld data link api"`
	DetachOn   list[leaf[string]]     `yaml:"detach-on" doc:"Signs of a host that left." enum:"link|nud|api" def:"link nud api"`
	Identity   rawIdentity            `yaml:"identity" doc:"How a MAC address becomes an MN-Identifier."`
	Families   list[leaf[string]]     `yaml:"families" doc:"Families that the link offers to hosts without a profile." enum:"v4|v6" def:"v4 v6"`
	Hosts      list[rawHost]          `yaml:"hosts" doc:"Policy profiles of hosts, as far as a gateway needs them."`
	DNS        list[leaf[netip.Addr]] `yaml:"dns" doc:"Name servers of both families: RDNSS (RFC 8106) and DHCP option 6." ex:"[10.20.0.53, \"2001:db8::53\"]"`
	Search     list[leaf[string]]     `yaml:"search" doc:"Search domains: DNSSL (RFC 8106); DHCP option 15 takes the first." ex:"[example.net]"`
	MTU        leaf[int]              `yaml:"mtu" doc:"MTU told to hosts. Default: what fits the tunnel." range:"1280..65535"`
	DHCP4      rawDHCP4               `yaml:"dhcp4" doc:"DHCPv4 server of the link (RFC 5844 3.4.1)."`
	RA         rawRA                  `yaml:"ra" doc:"Router advertisements."`
}

type rawRouter struct {
	at
	LinkLocal leaf[netip.Addr] `yaml:"link-local" doc:"FixedMAGLinkLocalAddressOnAllAccessLinks." family:"6" rfc:"RFC 5213 9.3, RFC 6543" def:"fe80::200:5eff:fe00:5213"`
	MAC       leaf[core.MAC]   `yaml:"mac" doc:"FixedMAGLinkLayerAddressOnAllAccessLinks." rfc:"RFC 5213 9.3, RFC 6543" def:"00:00:5e:00:52:13"`
}

type rawIdentity struct {
	at
	From  leaf[string]       `yaml:"from" doc:"mac: the table, else mac@realm. table: the table only, other hosts are unknown." enum:"mac|table" def:"mac"`
	Realm leaf[string]       `yaml:"realm" doc:"Realm of identifiers made from a MAC address." ex:"example.net"`
	Table dict[leaf[string]] `yaml:"table" doc:"MN-Identifier by MAC address." ex:"{ \"02:00:00:00:00:0a\": alice@example.net }"`
}

type rawHost struct {
	at
	ID       leaf[string]             `yaml:"id" doc:"MN-Identifier." ex:"alice@example.net" req:"1"`
	Anchor   leaf[string]             `yaml:"anchor" doc:"Name of one of gateway.anchors. Default: the first." ex:"lma1"`
	Families list[leaf[string]]       `yaml:"families" doc:"Families that are registered for the host. Default: those of the link." enum:"v4|v6" ex:"[v4]"`
	V4       leaf[string]             `yaml:"v4" doc:"Static IPv4 home address with the length of its network; sent in the registration (S001-3.1-06). Default: the anchor's choice." ex:"10.20.0.10/16"`
	HNP      list[leaf[netip.Prefix]] `yaml:"hnp" doc:"Static home network prefixes. Default: the anchor's choice." ex:"[\"2001:db8:1000:1::/64\"]" family:"6" single:"1"`
}

type rawDHCP4 struct {
	at
	Mode     leaf[string]        `yaml:"mode" doc:"server, or off." enum:"server|off" later:"relay: the DHCP relay" def:"server"`
	ServerID leaf[string]        `yaml:"server-id" doc:"fixed: the same on every gateway, so that hosts renew anywhere. own: this gateway's address, requests for others are discarded in silence (document 001); hosts come back at T2." enum:"fixed|own" def:"fixed"`
	Address  leaf[netip.Addr]    `yaml:"address" doc:"The server identifier. With fixed the default is the home network's default router; with own it must be written." ex:"10.20.0.2" family:"4"`
	Lease    leaf[time.Duration] `yaml:"lease" doc:"Lease time (option 51); it need not follow the binding's lifetime (RFC 5844 3.4.1)." range:"8s..8760h" def:"1h"`
	Hold     leaf[time.Duration] `yaml:"hold" doc:"How long a request waits for the anchor's answer." range:"100ms..1m" def:"10s"`
	Options  dict[dictValue]     `yaml:"options" doc:"Further options by number: an IPv4 address, a list of them, a text, or hex:0a0b. The same on every gateway." ex:"{ 42: [10.20.0.5], 66: tftp.example.net }"`
}

type rawRA struct {
	at
	Interval leaf[time.Duration] `yaml:"interval" doc:"Mean time between the advertisements to a host." range:"1s..1800s" rfc:"RFC 4861 6.2.1" def:"200s"`
	Lifetime leaf[time.Duration] `yaml:"router-lifetime" doc:"Router lifetime." range:"1s..9000s" rfc:"RFC 4861 6.2.1" def:"1800s"`
}

type rawGatewayLimits struct {
	at
	Hosts          leaf[int]  `yaml:"hosts" doc:"Hosts in all." range:"1..10000000" def:"100000"`
	HostsPerAccess leaf[int]  `yaml:"hosts-per-access" doc:"Hosts of one access link." range:"1..16384" def:"10000"`
	Pending        leaf[int]  `yaml:"pending" doc:"Registrations without an answer." range:"1..1000000" def:"5000"`
	NewHosts       leaf[rate] `yaml:"new-hosts" doc:"Hosts that may appear on one access link; bursts of twice as many." range:"1/s..1000000/s" def:"500/s"`
	Triggers       leaf[rate] `yaml:"triggers-per-host" doc:"Registrations that one host can cause." range:"0.1/s..1000/s" def:"5/s"`
}

type rawGatewayTimers struct {
	at
	Lifetime   leaf[time.Duration] `yaml:"lifetime" doc:"Lifetime that is asked for; a multiple of 4 s." range:"4s..262140s" rfc:"16 bits of 4 s, RFC 6275 6.1.7" def:"5m"`
	RefreshAt  leaf[float64]       `yaml:"refresh-at" doc:"Part of the lifetime after which a binding is refreshed." range:"0.1..0.95" def:"0.5"`
	LinkGrace  leaf[time.Duration] `yaml:"link-grace" doc:"How long a link may be down before its hosts are detached." range:"0s..1m" def:"1s"`
	Retry      rawRetry            `yaml:"retry" doc:"Registrations that were refused."`
	IdleHold   leaf[time.Duration] `yaml:"idle-hold" doc:"How long a host without a session is remembered." range:"10s..24h" def:"10m"`
	Reregister leaf[time.Duration] `yaml:"reregister" doc:"Time over which the hosts of a restarted anchor register again; grows with their number." range:"10ms..10m" def:"1s"`
	Retransmit rawRetransmit       `yaml:"retransmit" doc:"Registrations without answer (RFC 6275 11.8)."`
	NUD        rawNUD              `yaml:"nud" doc:"Reachability of hosts (RFC 4861 7.3)."`
}

type rawRetransmit struct {
	at
	First leaf[time.Duration] `yaml:"first" doc:"INITIAL_BINDACK_TIMEOUT; doubled each time." range:"100ms..1m" rfc:"RFC 6275 12: 1 s" def:"1s"`
	Max   leaf[time.Duration] `yaml:"max" doc:"MAX_BINDACK_TIMEOUT." range:"100ms..10m" rfc:"RFC 6275 12: 32 s" def:"32s"`
}

type rawRetry struct {
	at
	First leaf[time.Duration] `yaml:"first" doc:"Time to the next try; doubled each time." range:"1s..1h" def:"5s"`
	Max   leaf[time.Duration] `yaml:"max" doc:"Longest time between two tries." range:"1s..24h" def:"5m"`
}

type rawNUD struct {
	at
	Reachable  leaf[time.Duration] `yaml:"reachable" doc:"Silence after which a host is probed." range:"1s..1h" rfc:"RFC 4861 10: 30 s" def:"30s"`
	Retransmit leaf[time.Duration] `yaml:"retransmit" doc:"Time between probes (RETRANS_TIMER)." range:"100ms..1m" rfc:"RFC 4861 10: 1 s" def:"1s"`
	Probes     leaf[int]           `yaml:"probes" doc:"Probes without answer after which a host is gone (MAX_UNICAST_SOLICIT)." range:"1..20" rfc:"RFC 4861 10: 3" def:"3"`
}
