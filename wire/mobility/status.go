package mobility

// Status is the Status field of a Binding Acknowledgement. Below 128: accepted.
type Status uint8

// RFC 6275 6.1.8, RFC 3963 4.2, RFC 4285 10, RFC 5213 8.9, RFC 5555 3.2, RFC 5844 3.3.
const (
	Accepted                     Status = 0
	AcceptedPrefixDiscovery      Status = 1
	GREKeyNotSupported           Status = 2 // RFC 5845
	TLVNotSupported              Status = 3 // RFC 5845
	ReasonUnspecified            Status = 128
	AdministrativelyProhibited   Status = 129
	InsufficientResources        Status = 130
	HomeRegistrationNotSupported Status = 131
	NotHomeSubnet                Status = 132
	NotHomeAgent                 Status = 133
	DADFailed                    Status = 134
	SequenceOutOfWindow          Status = 135
	ExpiredHomeNonce             Status = 136
	ExpiredCareOfNonce           Status = 137
	ExpiredNonces                Status = 138
	TypeChangeDisallowed         Status = 139
	MobileRouterNotPermitted     Status = 140 // RFC 3963
	InvalidPrefix                Status = 141
	NotAuthorizedForPrefix       Status = 142
	ForwardingSetupFailed        Status = 143
	IDMismatch                   Status = 144 // RFC 4285; RFC 5555 uses the number for "cannot force UDP"
	MIPv6MsgIDRequired           Status = 145
	MIPv6AuthFail                Status = 146
	ProxyRegNotEnabled           Status = 152 // RFC 5213
	NotLMAForThisMobileNode      Status = 153
	MAGNotAuthorized             Status = 154
	NotAuthorizedForHNP          Status = 155
	TimestampMismatch            Status = 156
	TimestampLowerThanPrevious   Status = 157
	MissingHNPOption             Status = 158
	BCEPrefixSetMismatch         Status = 159
	MissingMNIdentifierOption    Status = 160
	MissingHandoffIndicator      Status = 161
	MissingAccessTechType        Status = 162
	GREKeyRequired               Status = 163 // RFC 5845
	NotAuthorizedForIPv4Mobility Status = 170 // RFC 5844
	NotAuthorizedForIPv4HoA      Status = 171
	NotAuthorizedForIPv6Mobility Status = 172
	MultipleIPv4HoANotSupported  Status = 173
)

// AddressStatus is the Status field of the IPv4 Address Acknowledgement and IPv4 Home Address Reply options,
// RFC 5555 3.2.1, RFC 5844 3.3.2. Below 128: success.
type AddressStatus uint8

const (
	AddressAccepted              AddressStatus = 0
	AddressReasonUnspecified     AddressStatus = 128
	AddressProhibited            AddressStatus = 129
	AddressIncorrect             AddressStatus = 130
	AddressInvalid               AddressStatus = 131
	DynamicAddressNotAvailable   AddressStatus = 132
	AddressPrefixAllocNotAllowed AddressStatus = 133 // RFC 5555 only
)
