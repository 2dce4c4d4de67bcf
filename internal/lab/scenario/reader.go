package scenario

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"kedge/internal/core"
)

// Error is one mistake in a file.
type Error struct {
	File string
	Pos
	Path string // steps[3].move.to
	Msg  string
}

func (e *Error) Error() string {
	if e.Path == "" {
		return fmt.Sprintf("%s:%s: %s", e.File, e.Pos, e.Msg)
	}
	return fmt.Sprintf("%s:%s: %s: %s", e.File, e.Pos, e.Path, e.Msg)
}

// reader collects the mistakes of one file.
type reader struct {
	file string
	errs []error
}

// value is one node of the tree with its path.
type value struct {
	r    *reader
	node ast.Node
	path string
	pos  Pos
}

func (r *reader) open(src []byte) (value, bool) {
	f, err := parser.ParseBytes(src, 0)
	if err != nil {
		var ye yaml.Error
		if errors.As(err, &ye) && ye.GetToken() != nil {
			p := ye.GetToken().Position
			r.errs = append(r.errs, &Error{File: r.file, Pos: Pos{p.Line, p.Column}, Msg: ye.GetMessage()})
		} else {
			r.errs = append(r.errs, &Error{File: r.file, Pos: Pos{1, 1}, Msg: err.Error()})
		}
		return value{}, false
	}
	if len(f.Docs) != 1 || f.Docs[0].Body == nil {
		r.errs = append(r.errs, &Error{File: r.file, Pos: Pos{1, 1}, Msg: "want exactly one YAML document"})
		return value{}, false
	}
	return r.value(f.Docs[0].Body, ""), true
}

func (r *reader) value(n ast.Node, path string) value {
	v := value{r: r, node: n, path: path}
	if t := n.GetToken(); t != nil {
		v.pos = Pos{t.Position.Line, t.Position.Column}
	}
	return v
}

func (v value) errorf(format string, args ...any) {
	v.r.errs = append(v.r.errs, &Error{File: v.r.file, Pos: v.pos, Path: v.path, Msg: fmt.Sprintf(format, args...)})
}

func (v value) child(n ast.Node, name string) value {
	if v.path != "" && !strings.HasPrefix(name, "[") {
		name = "." + name
	}
	return v.r.value(n, v.path+name)
}

// pairs visits a mapping in its order.
func (v value) pairs(f func(key string, val value)) bool {
	var ms []*ast.MappingValueNode
	switch n := v.node.(type) {
	case *ast.MappingNode:
		ms = n.Values
	case *ast.MappingValueNode:
		ms = []*ast.MappingValueNode{n}
	case *ast.NullNode:
		return true
	default:
		v.errorf("want a mapping")
		return false
	}
	seen := map[string]bool{}
	for _, m := range ms {
		k := v.r.value(m.Key, v.path)
		key := strings.Trim(m.Key.GetToken().Value, `"'`)
		if seen[key] {
			k.errorf("key %q is written twice", key)
		}
		seen[key] = true
		c := v.child(m.Value, key)
		c.pos = k.pos // of the key: that is what people look for
		f(key, c)
	}
	return true
}

// object visits a mapping whose keys are all known.
func (v value) object(known map[string]func(value)) {
	v.pairs(func(key string, val value) {
		f := known[key]
		if f == nil {
			var names []string
			for k := range known {
				names = append(names, k)
			}
			slices.Sort(names)
			val.errorf("unknown key; here may stand %s", strings.Join(names, ", "))
			return
		}
		f(val)
	})
}

func (v value) isMapping() bool {
	switch v.node.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return true
	}
	return false
}

// items visits a sequence.
func (v value) items(f func(value)) {
	seq, ok := v.node.(*ast.SequenceNode)
	if !ok {
		v.errorf("want a list")
		return
	}
	for i, n := range seq.Values {
		f(v.child(n, fmt.Sprintf("[%d]", i)))
	}
}

// each visits a sequence, or a lone value as a list of one.
func (v value) each(f func(value)) {
	if _, ok := v.node.(*ast.SequenceNode); ok {
		v.items(f)
		return
	}
	f(v)
}

func (v value) text() string {
	if _, ok := v.node.(ast.ScalarNode); !ok {
		v.errorf("want a single value")
		return ""
	}
	if s, ok := v.node.(*ast.StringNode); ok {
		return s.Value
	}
	if l, ok := v.node.(*ast.LiteralNode); ok {
		return strings.TrimSpace(l.Value.Value)
	}
	return v.node.GetToken().Value
}

func (v value) texts() (out []string) {
	v.each(func(x value) { out = append(out, x.text()) })
	return out
}

func (v value) any() (out any) {
	if err := yaml.NodeToValue(v.node, &out); err != nil {
		v.errorf("%v", err)
	}
	return out
}

func (v value) anyMap() map[string]any {
	out := map[string]any{}
	v.pairs(func(key string, val value) { out[key] = val.any() })
	return out
}

func (v value) boolean() bool {
	b, ok := v.node.(*ast.BoolNode)
	if !ok {
		v.errorf("want true or false")
		return false
	}
	return b.Value
}

func (v value) integer(lo, hi int) int {
	n, err := strconv.Atoi(v.text())
	if err != nil || n < lo || n > hi {
		v.errorf("want a whole number from %d to %d", lo, hi)
		return lo
	}
	return n
}

func (v value) duration() time.Duration {
	d, err := time.ParseDuration(v.text())
	if err != nil || d < 0 {
		v.errorf("want a duration as in 300ms or 5s")
		return 0
	}
	return d
}

// probability reads "1.5%" or "0.015".
func (v value) probability() float64 {
	s := v.text()
	t, percent := strings.CutSuffix(s, "%")
	f, err := strconv.ParseFloat(t, 64)
	if percent {
		f /= 100
	}
	if err != nil || f < 0 || f > 1 || math.IsNaN(f) {
		v.errorf("want a share as in 1%% or 0.01")
		return 0
	}
	return f
}

// rate reads bit/s: 500k, 10M, 1G.
func (v value) rate() uint64 {
	s := strings.TrimSuffix(v.text(), "bit/s")
	s = strings.TrimSpace(s)
	mul := 1.0
	if s != "" {
		switch s[len(s)-1] {
		case 'k':
			mul = 1e3
		case 'M':
			mul = 1e6
		case 'G':
			mul = 1e9
		}
	}
	if mul > 1 {
		s = s[:len(s)-1]
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || f*mul < 1 || f*mul > 1e12 {
		v.errorf("want bits a second as in 500k, 10M or 1G")
		return 0
	}
	return uint64(f * mul)
}

func (v value) oneOf(names ...string) string {
	s := v.text()
	if !slices.Contains(names, s) {
		v.errorf("%q: want one of %s", s, strings.Join(names, ", "))
	}
	return s
}

func (v value) addr() netip.Addr {
	a, err := netip.ParseAddr(v.text())
	if err != nil {
		v.errorf("want an address as in 2001:db8:a::1 or 198.51.100.1")
	}
	return a
}

func (v value) prefix() netip.Prefix {
	p, err := netip.ParsePrefix(v.text())
	if err != nil {
		v.errorf("want an address or network with its length as in 10.20.0.10/16")
	}
	return p
}

func (v value) mac() core.MAC {
	m, err := core.ParseMAC(v.text())
	if err != nil {
		v.errorf("%v", err)
	} else if m[0]&1 != 0 {
		v.errorf("%s is a group address", m)
	}
	return m
}

func (v value) compare() Compare {
	c, err := ParseCompare(v.text())
	if err != nil {
		v.errorf("%v", err)
	}
	return c
}
