package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// at is where a raw value was written; set is false if it was not.
type at struct {
	path string
	pos  position
	set  bool
}

func (a *at) here() *at { return a }

// located is every raw value that knows its place.
type located interface{ here() *at }

// A raw value that decodes itself. The tag is that of the struct field it stands in.
type decodable interface {
	decode(d *decoder, n ast.Node, tag reflect.StructTag)
}

// later stands for a key of a later version. Its tag `later` says what it will be.
type later struct{}

func (later) decode(*decoder, ast.Node, reflect.StructTag) {}

// list is a sequence. With the tag `single` a lone value stands for a list of one.
type list[T any] struct {
	at
	items []T
}

func (l *list[T]) decode(d *decoder, n ast.Node, tag reflect.StructTag) {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		if _, scalar := n.(ast.ScalarNode); scalar && tag.Get("single") != "" {
			l.items = make([]T, 1)
			d.value(reflect.ValueOf(&l.items[0]).Elem(), tag, n, l.path)
			return
		}
		d.errAt(l.path, l.pos, "is "+kindOf(n)+", not a list", "write "+cmpOr(tag.Get("ex"), "[ ... ]"))
		return
	}
	for i, e := range seq.Values {
		var item T
		d.value(reflect.ValueOf(&item).Elem(), tag, e, fmt.Sprintf("%s[%d]", l.path, i))
		if x, ok := any(&item).(located); ok && x.here().set { // else it was refused as a whole
			l.items = append(l.items, item)
		}
	}
}

// dict is a mapping with free keys.
type dict[T any] struct {
	at
	items []entry[T]
}

type entry[T any] struct {
	key leaf[string]
	val T
}

func (m *dict[T]) decode(d *decoder, n ast.Node, tag reflect.StructTag) {
	d.pairs(n, m.path, m.pos, func(key string, pos position, val ast.Node) {
		m.items = append(m.items, entry[T]{})
		e := &m.items[len(m.items)-1]
		path := m.path + "." + key
		e.key = leaf[string]{at: at{path: path, pos: pos, set: true}, v: key}
		d.value(reflect.ValueOf(&e.val).Elem(), tag, val, path)
	})
}

// decoder collects errors while it fills raw structs.
type decoder struct {
	src  *source
	errs Errors
	at   map[string]position
	// meant are the keys that an unknown key was probably meant to be: they are not called missing too.
	meant map[string]bool
}

func (d *decoder) errAt(path string, pos position, problem, want string) {
	d.errs = append(d.errs, &Error{File: d.src.file, Line: pos.Line, Col: pos.Col, Len: pos.Len, Key: path,
		Problem: problem, Want: want, Source: d.src.line(pos.Line)})
}

// fail reports a mistake at a decoded value.
func (d *decoder) fail(v located, problem, want string) {
	a := v.here()
	d.errAt(a.path, a.pos, problem, want)
}

// value decodes one node into a raw value. A lone word in the place of a section with the tag `short` is its value of that key.
func (d *decoder) value(v reflect.Value, tag reflect.StructTag, n ast.Node, path string) {
	pos := d.position(n)
	d.at[path] = pos
	switch n.(type) {
	case *ast.AnchorNode, *ast.AliasNode, *ast.TagNode, *ast.MergeKeyNode:
		d.errAt(path, pos, "YAML anchors, aliases, tags and merge keys are not used here", "write the value out")
		return
	case *ast.NullNode:
		d.errAt(path, pos, "has no value", "write one, or leave it out")
		return
	case *ast.MappingNode, *ast.SequenceNode:
		pos.Len = 1
	}
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		v = v.Elem()
	}
	if l, ok := v.Addr().Interface().(located); ok {
		*l.here() = at{path: path, pos: pos, set: true}
	}
	if dec, ok := v.Addr().Interface().(decodable); ok {
		dec.decode(d, n, tag)
		return
	}
	if sub := tag.Get("short"); sub != "" && kindOf(n) == "a single value" {
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.Tag.Get("yaml") == sub {
				d.value(v.Field(i), f.Tag, n, path+"."+sub)
			}
		}
		return
	}
	if kindOf(n) != "a map" {
		*v.Addr().Interface().(located).here() = at{path: path, pos: pos}
	}
	d.section(v, n, path, pos)
}

// section decodes a mapping into a struct, strictly.
func (d *decoder) section(v reflect.Value, n ast.Node, path string, pos position) {
	t := v.Type()
	d.pairs(n, path, pos, func(key string, pos position, val ast.Node) {
		sub := key
		if path != "" {
			sub = path + "." + key
		}
		for i := range t.NumField() {
			f := t.Field(i)
			if f.Tag.Get("yaml") != key {
				continue
			}
			if what := f.Tag.Get("later"); what != "" && f.Type == reflect.TypeFor[later]() {
				d.errAt(sub, pos, "is not in this version ("+what+")", "leave the key out")
				return
			}
			if _, null := val.(*ast.NullNode); null {
				d.errAt(sub, pos, "has no value", "write "+cmpOr(f.Tag.Get("ex"), "one")+", or leave the key out")
				return
			}
			d.value(v.Field(i), f.Tag, val, sub)
			return
		}
		problem, want, meant := unknownKey(key, keysOf(t))
		d.errAt(sub, pos, problem, want)
		d.meant[path+"."+meant] = true
	})
	if kindOf(n) != "a map" {
		return
	}
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Tag.Get("req") == "" {
			continue
		}
		if l, ok := v.Field(i).Addr().Interface().(located); ok && !l.here().set && !d.blamed(path, f.Tag.Get("yaml")) {
			d.errAt(path, pos, fmt.Sprintf("%q is missing", f.Tag.Get("yaml")), "add "+f.Tag.Get("yaml")+": "+f.Tag.Get("ex"))
		}
	}
}

// faulty says that something at or under a path was refused, so that its absence elsewhere means nothing.
func (d *decoder) faulty(path string) bool {
	return slices.ContainsFunc(d.errs, func(e *Error) bool {
		rest, ok := strings.CutPrefix(e.Key, path)
		return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
	})
}

// blamed says that a key was written but refused, so that it is not called missing too.
func (d *decoder) blamed(path, key string) bool {
	if d.meant[path+"."+key] {
		return true
	}
	if path != "" {
		key = path + "." + key
	}
	return slices.ContainsFunc(d.errs, func(e *Error) bool { return e.Key == key })
}

// pairs visits the entries of a mapping and refuses duplicates.
func (d *decoder) pairs(n ast.Node, path string, pos position, visit func(key string, pos position, val ast.Node)) {
	var vals []*ast.MappingValueNode
	switch n := n.(type) {
	case *ast.MappingNode:
		vals = n.Values
	case *ast.MappingValueNode:
		vals = []*ast.MappingValueNode{n}
	default:
		d.errAt(path, pos, "is "+kindOf(n)+", not a map", "write keys under it, one a line, as in \"key: value\"")
		return
	}
	seen := map[string]int{}
	for _, p := range vals {
		kp := d.position(p.Key)
		if _, ok := p.Key.(ast.ScalarNode); !ok {
			d.errAt(path, kp, "a key must be a plain word", "write \"key: value\"")
			continue
		}
		if _, ok := p.Key.(*ast.MergeKeyNode); ok {
			d.errAt(path, kp, "YAML anchors, aliases, tags and merge keys are not used here", "write the value out")
			continue
		}
		key := p.Key.GetToken().Value
		if line, dup := seen[key]; dup {
			sub := key
			if path != "" {
				sub = path + "." + key
			}
			d.errAt(sub, kp, "is written twice", fmt.Sprintf("keep one; the first is on line %d", line))
			continue
		}
		seen[key] = kp.Line
		visit(key, kp, p.Value)
	}
}

// position of a node: of its first character. The parser marks a mapping by the colon of its first entry.
func (d *decoder) position(n ast.Node) position {
	switch m := n.(type) {
	case *ast.MappingNode:
		if !m.IsFlowStyle && len(m.Values) > 0 {
			return d.position(m.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return d.position(m.Key)
	}
	tok := n.GetToken()
	if tok == nil || tok.Position == nil {
		return position{Line: 1, Col: 1, Len: 1}
	}
	p := tok.Position
	return position{Line: p.Line, Col: p.Column, Len: d.src.width(p.Line, p.Column, tok.Value)}
}

// kindOf names a node for a person.
func kindOf(n ast.Node) string {
	switch n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a map"
	case *ast.SequenceNode:
		return "a list"
	case *ast.NullNode:
		return "empty"
	}
	return "a single value"
}

// defaults fills every leaf that was not written with the default of its tag, also inside sections that are absent;
// optional sections (pointers) stay nil.
func (d *decoder) defaults(v reflect.Value, path string) {
	t := v.Type()
	for i := range t.NumField() {
		f, fv := t.Field(i), v.Field(i)
		name := f.Tag.Get("yaml")
		if name == "" {
			continue
		}
		sub := name
		if path != "" {
			sub = path + "." + name
		}
		if f.Type.Kind() == reflect.Pointer {
			if fv.IsNil() {
				continue
			}
			fv = fv.Elem()
		}
		if l, ok := fv.Addr().Interface().(located); ok && !l.here().set {
			// A default is blamed where its section stands.
			*l.here() = at{path: sub, pos: d.nearest(sub)}
		}
		x := fv.Addr().Interface()
		if def, ok := f.Tag.Lookup("def"); ok {
			x.(interface{ setDefault(string) }).setDefault(def)
		}
		if items, ok := x.(interface {
			each(func(reflect.Value, string))
		}); ok {
			items.each(d.defaults)
		} else if isSection(fv.Type()) {
			d.defaults(fv, sub)
		}
	}
}

// nearest is the position of the innermost written ancestor of a path.
func (d *decoder) nearest(path string) position {
	for {
		i := strings.LastIndexAny(path, ".[")
		if i < 0 {
			return position{Line: 1, Col: 1, Len: 1}
		}
		path = path[:i]
		if p, ok := d.at[path]; ok {
			return p
		}
	}
}

// setDefault makes a list of the words of def.
func (l *list[T]) setDefault(def string) {
	if l.set {
		return
	}
	words := strings.Fields(def)
	l.items = make([]T, len(words))
	for i, w := range words {
		x := any(&l.items[i])
		*x.(located).here() = l.at
		x.(interface{ setDefault(string) }).setDefault(w)
	}
}

// each visits the items that are sections.
func (l *list[T]) each(visit func(reflect.Value, string)) {
	for i := range l.items {
		v := reflect.ValueOf(&l.items[i])
		if _, leaf := v.Interface().(decodable); !leaf {
			visit(v.Elem(), fmt.Sprintf("%s[%d]", l.path, i))
		}
	}
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
