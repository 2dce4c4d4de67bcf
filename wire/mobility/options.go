package mobility

import (
	"bytes"
	"errors"
	"iter"

	"kedge/wire"
)

// Options is a list of mobility options in wire form, padding included.
type Options []byte

// Option is one option as it came.
type Option struct {
	Type   OptionType
	Length uint8  // the Length octet; it is not len(Data) in the short layouts of options 29 and 30
	Data   []byte // octets after the Length octet; aliases the Options
}

// Clone copies the options, so that they live longer than the packet they came in.
func (o Options) Clone() Options { return bytes.Clone(o) }

// next reads the option at i and says where the one after it starts. ok is false where the octets end too early.
func (o Options) next(i int) (opt Option, end int, ok bool) {
	t := OptionType(o[i])
	if t == OptPad1 {
		return Option{}, i + 1, true
	}
	if i+2 > len(o) {
		return Option{Type: t}, len(o), false
	}
	length := o[i+1]
	end = i + 2 + DataLength(t, length)
	if end > len(o) {
		return Option{Type: t, Length: length}, len(o), false
	}
	return Option{t, length, o[i+2 : end : end]}, end, true
}

// All gives the options in order, pads left out. It stops where the octets are no options any more, which Parse never
// lets through.
func (o Options) All() iter.Seq[Option] {
	return func(yield func(Option) bool) {
		for i := 0; i < len(o); {
			opt, end, ok := o.next(i)
			if !ok || opt.Type > OptPadN && !yield(opt) {
				return
			}
			i = end
		}
	}
}

// Values gives the options as typed values, and RawOption for those without a type here or with a bad value: for traces
// and tests.
func (o Options) Values() iter.Seq[Value] {
	return func(yield func(Value) bool) {
		for opt := range o.All() {
			if !yield(opt.value()) {
				return
			}
		}
	}
}

// first finds the first well-formed option of a type.
func (o Options) first(t OptionType) (Option, bool) {
	for i := 0; i < len(o); {
		opt, end, ok := o.next(i)
		if !ok {
			break
		}
		if opt.Type == t && opt.check() == "" {
			return opt, true
		}
		i = end
	}
	return Option{}, false
}

// read is what all typed readers do.
func read[V any](o Options, t OptionType, decode func(Option) V) (v V, ok bool) {
	opt, ok := o.first(t)
	if ok {
		v = decode(opt)
	}
	return v, ok
}

// every gives all well-formed options of a type.
func every[V any](o Options, t OptionType, decode func(Option) V) iter.Seq[V] {
	return func(yield func(V) bool) {
		for opt := range o.All() {
			if opt.Type == t && opt.check() == "" && !yield(decode(opt)) {
				return
			}
		}
	}
}

// Has says whether there is an option of this type.
func (o Options) Has(t OptionType) bool { return o.Count(t) > 0 }

// Count says how many options of this type there are.
func (o Options) Count(t OptionType) int {
	n := 0
	for opt := range o.All() {
		if opt.Type == t {
			n++
		}
	}
	return n
}

var errNotLast = errors.New("it is not the last option, without padding behind it")

// check holds what Parse refuses in options that start at octet base of the Mobility Header.
func (o Options) check(base int) *wire.Error { return o.checkTail(base, 0) }

// checkTail is check with so many octets of padding to come.
func (o Options) checkTail(base, pad int) *wire.Error {
	count := 0
	for i := 0; i < len(o); {
		opt, end, ok := o.next(i)
		fail := func(r wire.Reason, cause error) *wire.Error {
			e := &wire.Error{Field: opt.Type.String(), Off: base + i, RFC: "RFC 6275 6.2.1", Reason: r, Err: cause}
			if f := &forms[opt.Type]; f.name != "" {
				e.Field, e.RFC = f.name+" option", f.rfc
			}
			return e
		}
		if !ok {
			return fail(wire.BadOptionLength, nil)
		}
		if opt.Type > OptPadN {
			if count++; count > maxOptions {
				return fail(wire.TooManyOptions, nil)
			}
			if r := opt.check(); r != "" {
				return fail(r, nil)
			}
		}
		if opt.Type == OptBindingAuthorization && (end < len(o) || pad > 0) {
			return fail(wire.BadValue, errNotLast)
		}
		i = end
	}
	return nil
}
