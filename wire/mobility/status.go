package mobility

import "fmt"

// Status is the Status field of a Binding Acknowledgement. Below 128: accepted.
type Status uint8

// RFC 6275 6.1.8, RFC 3963 4.2, RFC 4285 10, RFC 5213 8.9, RFC 5555 3.2, RFC 5844 3.3.
const (
	Accepted                     Status = 0
	AcceptedPrefixDiscovery      Status = 1
	GREKeyNotRequired            Status = 2 // RFC 5845
	GREButTLVNotSupported        Status = 3 // RFC 5845
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
	InvalidCareOf                Status = 174 // RFC 6275
)

// statusNames are the constants' names where the RFC has such, else its words.
var statusNames = [256]string{
	Accepted:                     "Binding Update accepted",
	AcceptedPrefixDiscovery:      "Accepted but prefix discovery necessary",
	GREKeyNotRequired:            "GRE_KEY_OPTION_NOT_REQUIRED",
	GREButTLVNotSupported:        "GRE_TUNNELING_BUT_TLV_HEADER_NOT_SUPPORTED",
	ReasonUnspecified:            "Reason unspecified",
	AdministrativelyProhibited:   "Administratively prohibited",
	InsufficientResources:        "Insufficient resources",
	HomeRegistrationNotSupported: "Home registration not supported",
	NotHomeSubnet:                "Not home subnet",
	NotHomeAgent:                 "Not home agent for this mobile node",
	DADFailed:                    "Duplicate Address Detection failed",
	SequenceOutOfWindow:          "Sequence number out of window",
	ExpiredHomeNonce:             "Expired home nonce index",
	ExpiredCareOfNonce:           "Expired care-of nonce index",
	ExpiredNonces:                "Expired nonces",
	TypeChangeDisallowed:         "Registration type change disallowed",
	MobileRouterNotPermitted:     "Mobile Router Operation not permitted",
	InvalidPrefix:                "Invalid Prefix",
	NotAuthorizedForPrefix:       "Not Authorized for Prefix",
	ForwardingSetupFailed:        "Forwarding Setup failed",
	IDMismatch:                   "MIPV6-ID-MISMATCH",
	MIPv6MsgIDRequired:           "MIPV6-MESG-ID-REQD",
	MIPv6AuthFail:                "MIPV6-AUTH-FAIL",
	ProxyRegNotEnabled:           "PROXY_REG_NOT_ENABLED",
	NotLMAForThisMobileNode:      "NOT_LMA_FOR_THIS_MOBILE_NODE",
	MAGNotAuthorized:             "MAG_NOT_AUTHORIZED_FOR_PROXY_REG",
	NotAuthorizedForHNP:          "NOT_AUTHORIZED_FOR_HOME_NETWORK_PREFIX",
	TimestampMismatch:            "TIMESTAMP_MISMATCH",
	TimestampLowerThanPrevious:   "TIMESTAMP_LOWER_THAN_PREV_ACCEPTED",
	MissingHNPOption:             "MISSING_HOME_NETWORK_PREFIX_OPTION",
	BCEPrefixSetMismatch:         "BCE_PBU_PREFIX_SET_DO_NOT_MATCH",
	MissingMNIdentifierOption:    "MISSING_MN_IDENTIFIER_OPTION",
	MissingHandoffIndicator:      "MISSING_HANDOFF_INDICATOR_OPTION",
	MissingAccessTechType:        "MISSING_ACCESS_TECH_TYPE_OPTION",
	GREKeyRequired:               "GRE_KEY_OPTION_REQUIRED",
	NotAuthorizedForIPv4Mobility: "NOT_AUTHORIZED_FOR_IPV4_MOBILITY_SERVICE",
	NotAuthorizedForIPv4HoA:      "NOT_AUTHORIZED_FOR_IPV4_HOME_ADDRESS",
	NotAuthorizedForIPv6Mobility: "NOT_AUTHORIZED_FOR_IPV6_MOBILITY_SERVICE",
	MultipleIPv4HoANotSupported:  "MULTIPLE_IPV4_HOME_ADDRESS_ASSIGNMENT_NOT_SUPPORTED",
	InvalidCareOf:                "Invalid Care-of Address",
}

// String is the RFC's name: "PROXY_REG_NOT_ENABLED", "status 99" for a number without one.
func (s Status) String() string {
	if n := statusNames[s]; n != "" {
		return n
	}
	return fmt.Sprintf("status %d", uint8(s))
}

// Accepted says whether the registration was accepted.
func (s Status) Accepted() bool { return s < 128 }

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

// Success says whether the address was bound.
func (s AddressStatus) Success() bool { return s < 128 }

// String is the RFC's words, "status 99" for a number without any.
func (s AddressStatus) String() string {
	switch s {
	case AddressAccepted:
		return "Success"
	case AddressReasonUnspecified:
		return "Failure, reason unspecified"
	case AddressProhibited:
		return "Administratively prohibited"
	case AddressIncorrect:
		return "Incorrect IPv4 home address"
	case AddressInvalid:
		return "Invalid IPv4 address"
	case DynamicAddressNotAvailable:
		return "Dynamic IPv4 home address assignment not available"
	case AddressPrefixAllocNotAllowed:
		return "Prefix allocation unauthorized"
	}
	return fmt.Sprintf("status %d", uint8(s))
}
