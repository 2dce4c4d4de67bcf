package access

import (
	"time"

	"kedge/internal/rate"
)

// Limits of one link: what its hosts, known or not, can make it remember and say.
const (
	// MaxHosts is how many hosts with a grant one link serves; a further Grant is refused with host-limit.
	MaxHosts = 16384
	// MaxStrangers is how many hosts without a grant one link remembers. A new one takes the place of the one that was
	// silent for longest: a flood of forged addresses costs a real newcomer its held request at most, and it asks again.
	MaxStrangers = 1024
	// StrangerTime is how long a host without a grant is remembered after its last frame.
	StrangerTime = time.Minute
	// MaxPrefixes is how many home network prefixes one Router Advertisement carries, so that it fits 1,280 octets.
	MaxPrefixes = 24
	// FrameBurst and FrameRate (a second) limit the signalling frames of one host; those beyond are refused with rate-limit.
	// A host's pending state is one DHCP message and one ARP Request: a newer one replaces it.
	FrameBurst = 64
	FrameRate  = 32
)

var frameLimit = rate.PerSecond(FrameRate, FrameBurst)

// Defaults of LinkConfig.
const (
	DefaultRAInterval = 200 * time.Second
	DefaultLease      = time.Hour
	DefaultHoldTime   = 10 * time.Second
)

// Protocol constants.
const (
	maxRouterLifetime = 9000 * time.Second // RFC 4861 6.2.1, AdvDefaultLifetime
	// A host gets its first advertisements in quick succession, since it may lose one (RFC 4861 10,
	// MAX_INITIAL_RTR_ADVERTISEMENTS; the interval there is at most 16 s).
	initialAdvertisements = 3
	initialInterval       = 4 * time.Second
	// Withdrawn prefixes are repeated as often as RFC 4861 10 says (MAX_FINAL_RTR_ADVERTISEMENTS).
	finalAdvertisements = 3
	finalInterval       = 3 * time.Second // MIN_DELAY_BETWEEN_RAS
	// declineTime is how long a declined address is not offered again. RFC 2131 4.3.3 would have it for ever, but the
	// address is the host's own by registration, and a host with a static profile has no other.
	declineTime = time.Minute
	// probeDelay is the maximum response delay of the query in Probe, in milliseconds.
	probeDelay = 500
)
