package homelist

import "time"

// Limits of what others can make the anchor hold or send.
const (
	// MaxAgents is how many other home agents one list holds. Those in it stay until they expire; a further one is refused.
	MaxAgents = 64
	// MaxAddresses is how many global addresses of one home agent are held.
	MaxAddresses = 16
	// MaxPrefixes is how many prefixes of a home link are held, MaxSources by how many routers each.
	MaxPrefixes = 64
	MaxSources  = 16
	// MaxAdvertised is how many prefixes one advertisement carries: on the home link, and to a mobile node, where routing
	// header, ESP and UDP around it leave that much of 1,280 octets.
	MaxAdvertised = 32
	// DiscoveriesPerNetwork is how many Home Agent Address Discovery Requests of one /64 are answered in a second. The sources
	// of requests are not known to be theirs, and the answer is longer than the request.
	DiscoveriesPerNetwork = 5
)

// Protocol constants.
const (
	leastMinInterval  = 30 * time.Millisecond  // RFC 6275 7.5
	maxRouterLifetime = 9000 * time.Second     // RFC 4861 6.2.1
	maxRADelay        = 500 * time.Millisecond // MAX_RA_DELAY_TIME, RFC 4861 10
	initialInterval   = 16 * time.Second       // MAX_INITIAL_RTR_ADVERT_INTERVAL
	initialCount      = 3                      // MAX_INITIAL_RTR_ADVERTISEMENTS
	// intervalPad is added to short intervals that are told to nodes (RFC 6275 7.5).
	intervalPad      = 20 * time.Millisecond
	intervalPadBelow = 200 * time.Millisecond

	// twoHours is the least valid lifetime that an advertisement, which nobody authenticates, can leave a known prefix with
	// (RFC 4862 5.5.3 e).
	twoHours = 2 * time.Hour
	// sameDeadline is how far two ends of a lifetime may be apart that are told as seconds to go.
	sameDeadline = 10 * time.Second

	// PrefixAdvTimeout and PrefixAdvRetries are of RFC 6275 12, betweenAdvertisements of 6.8.
	PrefixAdvTimeout      = 3 * time.Second
	PrefixAdvRetries      = 3
	betweenAdvertisements = time.Second

	// Of RFC 5142 8.
	InitialSwitchTimeout = 5 * time.Second
	MaxSwitchTimeout     = 20 * time.Second
)
