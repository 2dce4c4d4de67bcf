package signal

import (
	"context"

	"kedge/internal/core"
)

// Host is a core.Host whose port of kind "mh" is a Port: the loop that opens it needs to know nothing of this package.
type Host struct {
	core.Host
	codec *Codec
	data  func() core.Port
}

// NewHost wraps a host. data gives the data plane's port of kind "ip" when "mh" is opened; data, or what it gives, may be nil.
func NewHost(h core.Host, c *Codec, data func() core.Port) *Host {
	return &Host{Host: h, codec: c, data: data}
}

// Keep implements core.Keeper, if the host does.
func (h *Host) Keep(ctx context.Context, tell func(core.Emit)) error {
	if k, ok := h.Host.(core.Keeper); ok {
		return k.Keep(ctx, tell)
	}
	return nil
}

// Open implements core.Host.
func (h *Host) Open(kind string, ifs ...string) (core.Port, error) {
	if kind != "mh" {
		return h.Host.Open(kind, ifs...)
	}
	native, err := h.Host.Open("ip", ifs...)
	if err != nil {
		return nil, err
	}
	var data core.Port
	if h.data != nil {
		data = h.data()
	}
	if data == nil {
		return NewPort(h.codec, h.Host.Now, native, nil), nil
	}
	return NewPort(h.codec, h.Host.Now, native, data), nil
}
