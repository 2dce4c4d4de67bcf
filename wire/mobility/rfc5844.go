package mobility

import "net/netip"

// IPv4HomeAddressRequest is option 36, RFC 5844 3.3.1; 0.0.0.0 with PrefixLen 0 asks for allocation.
type IPv4HomeAddressRequest struct {
	PrefixLen uint8 // 0..32
	Addr      netip.Addr
}

func (IPv4HomeAddressRequest) OptionType() OptionType { return OptIPv4HomeAddressRequest }

func (v IPv4HomeAddressRequest) appendTLV(b []byte) []byte {
	return appendIPv4(append(b, byte(OptIPv4HomeAddressRequest), 6, sixBits(v.PrefixLen), 0), v.Addr)
}

func decodeIPv4HomeAddressRequest(o Option) IPv4HomeAddressRequest {
	return IPv4HomeAddressRequest{PrefixLen: o.Data[0] >> 2, Addr: ipv4(o.Data[2:])}
}

// IPv4HomeAddressRequest reads the first such option.
func (o Options) IPv4HomeAddressRequest() (IPv4HomeAddressRequest, bool) {
	return read(o, OptIPv4HomeAddressRequest, decodeIPv4HomeAddressRequest)
}

// IPv4HomeAddressReply is option 37, RFC 5844 3.3.2.
type IPv4HomeAddressReply struct {
	Status    AddressStatus
	PrefixLen uint8 // 0..32
	Addr      netip.Addr
}

func (IPv4HomeAddressReply) OptionType() OptionType { return OptIPv4HomeAddressReply }

func (v IPv4HomeAddressReply) appendTLV(b []byte) []byte {
	return appendIPv4(append(b, byte(OptIPv4HomeAddressReply), 6, byte(v.Status), sixBits(v.PrefixLen)), v.Addr)
}

func decodeIPv4HomeAddressReply(o Option) IPv4HomeAddressReply {
	return IPv4HomeAddressReply{Status: AddressStatus(o.Data[0]), PrefixLen: o.Data[1] >> 2, Addr: ipv4(o.Data[2:])}
}

// IPv4HomeAddressReply reads the first such option.
func (o Options) IPv4HomeAddressReply() (IPv4HomeAddressReply, bool) {
	return read(o, OptIPv4HomeAddressReply, decodeIPv4HomeAddressReply)
}

// IPv4DefaultRouter is option 38, RFC 5844 3.3.3.
type IPv4DefaultRouter struct{ Addr netip.Addr }

func (IPv4DefaultRouter) OptionType() OptionType { return OptIPv4DefaultRouter }

func (v IPv4DefaultRouter) appendTLV(b []byte) []byte {
	return appendIPv4(append(b, byte(OptIPv4DefaultRouter), 6, 0, 0), v.Addr)
}

func decodeIPv4DefaultRouter(o Option) IPv4DefaultRouter { return IPv4DefaultRouter{ipv4(o.Data[2:])} }

// IPv4DefaultRouter reads the first such option.
func (o Options) IPv4DefaultRouter() (IPv4DefaultRouter, bool) {
	return read(o, OptIPv4DefaultRouter, decodeIPv4DefaultRouter)
}

// IPv4DHCPSupportMode is option 39, RFC 5844 3.3.4: the gateway acts as DHCP server (S flag), else as relay.
type IPv4DHCPSupportMode struct{ Server bool }

func (IPv4DHCPSupportMode) OptionType() OptionType { return OptIPv4DHCPSupportMode }

func (v IPv4DHCPSupportMode) appendTLV(b []byte) []byte {
	return append(b, byte(OptIPv4DHCPSupportMode), 2, 0, b2u(v.Server))
}

func decodeIPv4DHCPSupportMode(o Option) IPv4DHCPSupportMode {
	return IPv4DHCPSupportMode{Server: o.Data[1]&1 != 0}
}

// IPv4DHCPSupportMode reads the first such option.
func (o Options) IPv4DHCPSupportMode() (IPv4DHCPSupportMode, bool) {
	return read(o, OptIPv4DHCPSupportMode, decodeIPv4DHCPSupportMode)
}
