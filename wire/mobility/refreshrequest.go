package mobility

// BindingRefreshRequest is type 0, RFC 6275 6.1.2.
type BindingRefreshRequest struct{ Options Options }

func (*BindingRefreshRequest) Type() Type            { return TypeBindingRefreshRequest }
func (m *BindingRefreshRequest) GetOptions() Options { return m.Options }
func (*BindingRefreshRequest) fixed() int            { return 8 }

func parseBindingRefreshRequest(_ []byte, o Options) *BindingRefreshRequest {
	return &BindingRefreshRequest{Options: o}
}

func (*BindingRefreshRequest) appendBody(b []byte) []byte { return append(b, 0, 0) }
