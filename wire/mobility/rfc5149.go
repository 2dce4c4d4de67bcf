package mobility

// ServiceSelection names the service that a binding is for, such as an APN, RFC 5149 3. Identifier is UTF-8, not empty.
type ServiceSelection struct{ Identifier string }

func (ServiceSelection) OptionType() OptionType { return OptServiceSelection }

func (v ServiceSelection) appendTLV(b []byte) []byte {
	return append(append(b, byte(OptServiceSelection), byte(len(v.Identifier))), v.Identifier...)
}

func decodeServiceSelection(o Option) ServiceSelection { return ServiceSelection{string(o.Data)} }

// ServiceSelection reads the first such option. It allocates the Identifier; ServiceSelectionBytes does not.
func (o Options) ServiceSelection() (ServiceSelection, bool) {
	return read(o, OptServiceSelection, decodeServiceSelection)
}

// ServiceSelectionBytes reads the first such option without a copy: identifier aliases o.
func (o Options) ServiceSelectionBytes() (identifier []byte, ok bool) {
	opt, ok := o.first(OptServiceSelection)
	return opt.Data, ok
}
