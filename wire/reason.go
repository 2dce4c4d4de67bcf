package wire

// Reason is the closed list of reasons for drops and refusals. Its text is used unchanged as error, metric label, log key,
// API field and trace field: the text is the contract. A Reason is an error, so errors.Is(err, wire.BadChecksum) works.
type Reason string

// Error is the reason's text.
func (r Reason) Error() string { return string(r) }

// Wire formats.
const (
	Truncated         Reason = "truncated"
	TooLong           Reason = "too-long"
	BadChecksum       Reason = "bad-checksum"
	BadLength         Reason = "bad-length"
	BadOptionLength   Reason = "bad-option-length"
	TooManyOptions    Reason = "too-many-options"
	BadValue          Reason = "bad-value"
	BadPrefixLength   Reason = "bad-prefix-length"
	BadPayloadProto   Reason = "bad-payload-proto"
	UnknownType       Reason = "unknown-type"
	DuplicateOption   Reason = "duplicate-option"
	BadHopLimit       Reason = "bad-hop-limit"
	BadSource         Reason = "bad-source"
	BadDestination    Reason = "bad-destination"
	OverlapFragment   Reason = "overlapping-fragment"
	ReassemblyTimeout Reason = "reassembly-timeout"
	ReassemblyLimit   Reason = "reassembly-limit"
)

// Signalling between gateway and anchor.
const (
	UnknownPeer          Reason = "unknown-peer"
	NotProxy             Reason = "not-a-proxy-registration"
	MissingACK           Reason = "missing-acknowledge-flag"
	NotAuthorized        Reason = "not-authorized"
	UnknownSubscriber    Reason = "unknown-subscriber"
	ServiceDisabled      Reason = "service-disabled"
	DialectDisabled      Reason = "dialect-disabled"
	MissingMNID          Reason = "missing-mn-identifier"
	MissingPrefix        Reason = "missing-home-network-prefix"
	MissingHandoff       Reason = "missing-handoff-indicator"
	MissingATT           Reason = "missing-access-technology-type"
	PrefixNotAuthorized  Reason = "prefix-not-authorized"
	PrefixMismatch       Reason = "prefix-set-mismatch"
	IPv4NotAuthorized    Reason = "ipv4-address-not-authorized"
	IPv4Disabled         Reason = "ipv4-service-disabled"
	IPv6Disabled         Reason = "ipv6-service-disabled"
	MultipleIPv4         Reason = "multiple-ipv4-addresses"
	NotUnicast           Reason = "not-unicast"
	PoolExhausted        Reason = "pool-exhausted"
	NoDynamic            Reason = "no-dynamic-allocation"
	TimestampMismatch    Reason = "timestamp-mismatch"
	TimestampOld         Reason = "timestamp-older-than-accepted"
	SequenceOld          Reason = "sequence-out-of-window"
	NothingToDeregister  Reason = "nothing-to-deregister"
	NotServingGateway    Reason = "not-the-serving-gateway"
	SessionLimit         Reason = "session-limit"
	PeerSessionLimit     Reason = "sessions-per-gateway-limit"
	PendingLimit         Reason = "pending-limit"
	RateLimit            Reason = "rate-limit"
	StoreFailed          Reason = "store-failed"
	StoreLost            Reason = "store-lost"
	ForwardingFailed     Reason = "forwarding-failed"
	Unsolicited          Reason = "unsolicited"
	IdentifierMismatch   Reason = "identifier-mismatch"
	SequenceMismatch     Reason = "sequence-mismatch"
	NoAddressInAnswer    Reason = "no-address-in-answer"
	PrefixNotAsked       Reason = "prefix-not-asked-for"
	NoAnswer             Reason = "no-answer"
	UnsupportedMessage   Reason = "unsupported-message"
	InterfaceUnsupported Reason = "unknown-interface"
	RefusedByAnchor      Reason = "refused-by-anchor" // a status without a reason of its own
	UDPNotForced         Reason = "forced-udp-not-accepted"
	StillAttached        Reason = "still-attached"     // a revocation's answer: the host is with the gateway after all
	RefusedByGateway     Reason = "refused-by-gateway" // a revocation's status without a reason of its own
	RegisteredSince      Reason = "registered-since"   // a revocation of a registration that is not the newest
)

// Headers around signalling.
const (
	MappedMismatch Reason = "mapped-address-mismatch" // an IPv4-mapped address that is not that of the header around it
	MappedInUDP    Reason = "mapped-in-udp"
	HomeInUDP      Reason = "home-address-in-udp"      // a Home Address option or type 2 routing header, where RFC 5555 has none
	MissingHome    Reason = "missing-home-address"     // an IPv4-mapped address without the header that says whose it is
	UpdateInTunnel Reason = "binding-update-in-tunnel" // protocol 41 around a Binding Update, where RFC 5555 wants UDP
	TunnelInTunnel Reason = "tunnel-in-tunnel"
	NotSignalling  Reason = "not-signalling"
	NotOurHome     Reason = "not-our-home-address" // a type 2 routing header to a home address that is not this node's
)

// Registrations of nodes that speak for themselves.
const (
	NotHomeRegistration Reason = "not-a-home-registration"
	NonceIndices        Reason = "nonce-indices" // in a home registration
	TypeChange          Reason = "registration-type-change"
	BadHomeAddress      Reason = "bad-home-address"
	BadCareOf           Reason = "bad-care-of-address"
	CareOfMismatch      Reason = "care-of-address-mismatch" // outer source, inner source and options disagree
	CareOfHome          Reason = "care-of-is-a-home-address"
	CareOfLocal         Reason = "care-of-is-the-anchor"
	MissingCareOf       Reason = "missing-ipv4-care-of-option"
	CareOfUncovered     Reason = "care-of-address-not-covered" // by ESP: the source alone, without the option that it is in
	NotHomeSubnet       Reason = "not-home-subnet"
	NotHomeAgentAddress Reason = "not-a-home-agent-address"
	MobileRouterRefused Reason = "mobile-router-not-permitted"
	PrefixLengthZero    Reason = "prefix-length-zero"
	NetworkRefused      Reason = "mobile-network-not-authorized"
	HomeAgentSwitched   Reason = "home-agent-switched"
	DuplicateAddress    Reason = "duplicate-address" // DAD found the home address in use on the home link
)

// Access link.
const (
	UnknownHost       Reason = "unknown-host"
	HostLimit         Reason = "host-limit"
	FamilyDisabled    Reason = "family-disabled"
	ForeignServer     Reason = "foreign-server"
	WrongAddress      Reason = "wrong-address"
	AddressClaimed    Reason = "address-of-another-host"
	AddressDeclined   Reason = "address-declined"
	NotForUs          Reason = "not-for-us"
	NotAttached       Reason = "not-attached"
	StaleSign         Reason = "stale-sign" // may be from before the host went to another gateway: it is asked
	RouterImpersonate Reason = "router-impersonation"
)

// Data plane.
const (
	UnknownHome     Reason = "unknown-home"
	WrongSource     Reason = "wrong-source"
	WrongTunnel     Reason = "wrong-tunnel"
	WrongMAC        Reason = "wrong-mac"
	Deprecated      Reason = "deprecated"
	LinkScope       Reason = "link-scope"
	HopLimit        Reason = "hop-limit-exceeded"
	TooBig          Reason = "packet-too-big"
	BadInner        Reason = "bad-inner-header"
	ECNDrop         Reason = "ecn-congestion-not-capable"
	BadGRE          Reason = "bad-gre-header"
	BadTLV          Reason = "bad-tlv-header"
	EncapsulateDeep Reason = "tunnel-encapsulation-limit"
	TunnelLoop      Reason = "tunnel-loop"
	TunnelError     Reason = "tunnel-error"
	MappedAddress   Reason = "ipv4-mapped-address" // outside the signalling that may have it
	SendFailed      Reason = "send-failed"
	Malformed       Reason = "malformed"
)

// Protection of signalling: ESP and its policy, authentication by mobility options.
const (
	Unprotected        Reason = "unprotected"                   // in the clear, though the policy protects it
	WrongAssociation   Reason = "wrong-security-association"    // well protected, for another home address or another use
	UnknownSPI         Reason = "unknown-spi"                   // no inbound security association has it
	BadICV             Reason = "bad-icv"                       // forged, damaged, or another key
	Replayed           Reason = "replayed"                      // a sequence number seen before, or behind the window
	BadPadding         Reason = "bad-padding"                   // of ESP
	DummyPacket        Reason = "dummy-packet"                  // traffic flow confidentiality: for nobody
	SequenceExhausted  Reason = "sequence-numbers-exhausted"    // only new keys help
	SequenceUnreserved Reason = "sequence-numbers-not-reserved" // the store did not take a reservation: nothing is sent
	AuthFailed         Reason = "authentication-failed"         // RFC 4285
	MessageIDRequired  Reason = "message-id-required"           // RFC 4285

	MissingAuthorization Reason = "missing-binding-authorization-data" // RFC 6275 6.2.7
	NonceExpired         Reason = "nonce-expired"                      // or never given: RFC 6275 9.5.1
	HomeInTest           Reason = "home-address-in-test"               // a Home Address option in Home or Care-of Test Init: RFC 6275 9.4
)

// Links of a mobile node.
const (
	RouterLimit Reason = "router-limit"
	PrefixLimit Reason = "prefix-limit"
)
