package config

import (
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"kedge/internal/core"
)

// leaf is one scalar of a known type. Tags: def (default), range ("4s..1h"), enum ("a|b"), later ("c: what it will be"),
// family ("4", "6"), rfc (where the range comes from), never ("part: why": words with that part are refused for good).
type leaf[T any] struct {
	at
	v T
}

// rate is so many a second, written "2000/s".
type rate float64

// spi is a Security Parameters Index, written decimal or as 0x101.
type spi uint32

func (l *leaf[T]) decode(d *decoder, n ast.Node, tag reflect.StructTag) {
	if _, ok := n.(ast.ScalarNode); !ok {
		d.fail(l, "is "+kindOf(n)+", not "+typeName(l.v), wantOf(l.v, tag))
		return
	}
	text := n.GetToken().Value
	if lit, ok := n.(*ast.LiteralNode); ok {
		text = lit.Value.Value
	}
	if problem, want := parse(&l.v, text); problem != "" {
		d.fail(l, problem, cmpOr(want, wantOf(l.v, tag)))
		return
	}
	if problem, want := within(l.v, text, tag); problem != "" {
		d.fail(l, problem, want)
		var zero T
		l.v = zero // refused once: what depends on it says nothing more
	}
}

func (l *leaf[T]) setDefault(def string) {
	if l.set {
		return
	}
	if problem, _ := parse(&l.v, def); problem != "" {
		panic("config: default of " + l.path + ": " + problem)
	}
}

// parse reads text as the type that p points to. Want may be empty: the caller knows a general answer.
func parse(p any, text string) (problem, want string) {
	bad := fmt.Sprintf("%q is no %s", text, strings.TrimPrefix(strings.TrimPrefix(typeName(reflect.ValueOf(p).Elem().Interface()), "an "), "a "))
	switch p := p.(type) {
	case *string:
		if strings.TrimSpace(text) == "" {
			return "is empty", ""
		}
		*p = text
	case *bool:
		switch text {
		case "true":
			*p = true
		case "false":
			*p = false
		default:
			return fmt.Sprintf("%q is neither true nor false", text), ""
		}
	case *int:
		n, err := strconv.ParseInt(strings.ReplaceAll(text, "_", ""), 10, 32)
		if err != nil {
			return bad, ""
		}
		*p = int(n)
	case *core.Domain:
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return bad, ""
		}
		*p = core.Domain(n)
	case *spi:
		n, err := strconv.ParseUint(strings.ReplaceAll(text, "_", ""), 0, 32)
		if err != nil {
			return bad, ""
		}
		*p = spi(n)
	case *float64:
		f, err := strconv.ParseFloat(text, 64)
		if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			return bad, ""
		}
		*p = f
	case *rate:
		s, ok := strings.CutSuffix(text, "/s")
		f, err := strconv.ParseFloat(s, 64)
		if !ok || err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			return bad, ""
		}
		*p = rate(f)
	case *time.Duration:
		v, err := time.ParseDuration(text)
		if err != nil {
			if _, err := strconv.ParseFloat(text, 64); err == nil {
				return fmt.Sprintf("%q has no unit", text), fmt.Sprintf("write %ss, or with ms, m, h", text)
			}
			return bad, ""
		}
		*p = v
	case *core.MAC:
		m, err := core.ParseMAC(text)
		if err != nil {
			return bad, ""
		}
		*p = m
	case *netip.Addr:
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" {
			return bad, ""
		}
		if a.Is4In6() {
			return bad, "write " + a.Unmap().String()
		}
		*p = a
	case *netip.AddrPort:
		a, err := netip.ParseAddrPort(text)
		if err != nil || a.Addr().Zone() != "" {
			return bad, ""
		}
		*p = a
	case *netip.Prefix:
		x, err := netip.ParsePrefix(text)
		if err != nil || x.Addr().Is4In6() {
			if a, aerr := netip.ParseAddr(text); aerr == nil && a.Zone() == "" {
				return fmt.Sprintf("%q has no length", text), fmt.Sprintf("write it with one, as in %s/%d", a, map[bool]int{true: 24, false: 64}[a.Is4()])
			}
			return bad, ""
		}
		if x != x.Masked() {
			return fmt.Sprintf("%s has host bits set", x), "write " + x.Masked().String()
		}
		*p = x
	default:
		panic(fmt.Sprintf("config: no reader for %T", p))
	}
	return "", ""
}

// within checks a value against its tag.
func within(v any, text string, tag reflect.StructTag) (problem, want string) {
	for _, l := range strings.Split(tag.Get("later"), "; ") {
		if word, what, ok := strings.Cut(l, ": "); ok && word == text {
			return fmt.Sprintf("%q is not in this version (%s)", text, what), wantOf(v, tag)
		}
	}
	if part, why, ok := strings.Cut(tag.Get("never"), ": "); ok && strings.Contains(strings.ToLower(text), part) {
		return fmt.Sprintf("%q: %s", text, why), wantOf(v, tag)
	}
	if e := tag.Get("enum"); e != "" {
		words := strings.Split(e, "|")
		for _, w := range words {
			if w == text {
				return "", ""
			}
		}
		want := "write " + join(words, "or")
		if near, ok := nearest(text, words); ok {
			want = fmt.Sprintf("did you mean %q? %s", near, "w"+want[1:])
		}
		return fmt.Sprintf("%q is not known", text), want
	}
	var a netip.Addr
	switch v := v.(type) {
	case netip.Addr:
		a = v
	case netip.Prefix:
		a = v.Addr()
	}
	if f := tag.Get("family"); f != "" && a.IsValid() {
		if f == "4" && !a.Is4() {
			return fmt.Sprintf("%q is IPv6", text), "write an IPv4 " + noun(v)
		}
		if f == "6" && a.Is4() {
			return fmt.Sprintf("%q is IPv4", text), cmpOr(tag.Get("why"), "write an IPv6 "+noun(v))
		}
	}
	if r := tag.Get("range"); r != "" {
		lo, hi, _ := strings.Cut(r, "..")
		x := number(v)
		var l, h any = v, v
		l, h = reread(l, lo), reread(h, hi)
		if x < number(l) || x > number(h) {
			return fmt.Sprintf("%s is out of range", text), wantRange(lo, hi) + cite(tag)
		}
	}
	return "", ""
}

func noun(v any) string {
	if _, ok := v.(netip.Prefix); ok {
		return "prefix"
	}
	return "address"
}

func wantRange(lo, hi string) string {
	if lo == hi {
		return "write " + lo
	}
	return "write " + lo + " to " + hi
}

func cite(tag reflect.StructTag) string {
	if r := tag.Get("rfc"); r != "" {
		return " (" + r + ")"
	}
	return ""
}

// number orders the values that have a range.
func number(v any) float64 {
	switch v := v.(type) {
	case int:
		return float64(v)
	case float64:
		return v
	case rate:
		return float64(v)
	case spi:
		return float64(v)
	case time.Duration:
		return float64(v)
	case core.Domain:
		return float64(v)
	}
	panic(fmt.Sprintf("config: %T has no range", v))
}

// reread reads text as the type of like.
func reread(like any, text string) any {
	p := reflect.New(reflect.TypeOf(like))
	if problem, _ := parse(p.Interface(), text); problem != "" {
		panic("config: range: " + problem)
	}
	return p.Elem().Interface()
}

// typeName names a type for a person; the reference uses it too.
func typeName(v any) string {
	switch v.(type) {
	case string:
		return "a word"
	case bool:
		return "a switch"
	case int:
		return "a number"
	case core.Domain:
		return "a domain number"
	case float64:
		return "a fraction"
	case rate:
		return "a rate"
	case spi:
		return "an SPI"
	case time.Duration:
		return "a duration"
	case core.MAC:
		return "a MAC address"
	case netip.Addr:
		return "an address"
	case netip.AddrPort:
		return "an address with port"
	case netip.Prefix:
		return "a prefix"
	}
	panic(fmt.Sprintf("config: no name for %T", v))
}

// wantOf says what a value of the type looks like.
func wantOf(v any, tag reflect.StructTag) string {
	if e := tag.Get("enum"); e != "" {
		return "write " + join(strings.Split(e, "|"), "or")
	}
	if r := tag.Get("range"); r != "" {
		lo, hi, _ := strings.Cut(r, "..")
		return wantRange(lo, hi) + cite(tag)
	}
	if ex := tag.Get("ex"); ex != "" && !strings.HasPrefix(ex, "[") && !strings.HasPrefix(ex, "{") {
		return "write one as in " + ex
	}
	switch v.(type) {
	case bool:
		return "write true or false"
	case int, core.Domain:
		return "write a whole number"
	case float64:
		return "write a number as in 0.5"
	case spi:
		return "write a number as in 0x101"
	case rate:
		return "write so many a second as in 2000/s"
	case time.Duration:
		return "write a number with its unit as in 300ms, 10s, 5m, 1h"
	case core.MAC:
		return `write six octets in quotes as in "02:00:00:00:00:0a"`
	case netip.Addr:
		switch tag.Get("family") {
		case "4":
			return "write an IPv4 address as in 10.20.0.1"
		case "6":
			return `write an IPv6 address in quotes as in "2001:db8:a::1"`
		}
		return `write 10.20.0.1, or IPv6 in quotes as in "2001:db8:a::1"`
	case netip.AddrPort:
		return `write "[::1]:9135" or 127.0.0.1:9135`
	case netip.Prefix:
		return `write 10.20.0.0/16, or IPv6 in quotes as in "2001:db8:1000::/36"`
	}
	return "write a word"
}

// dictValue is one value or a list of them.
type dictValue struct {
	at
	items  []leaf[string]
	isList bool
}

func (v *dictValue) decode(d *decoder, n ast.Node, tag reflect.StructTag) {
	_, v.isList = n.(*ast.SequenceNode)
	l := list[leaf[string]]{at: v.at}
	l.decode(d, n, `single:"1"`)
	v.items = l.items
}
