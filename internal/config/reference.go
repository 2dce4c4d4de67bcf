package config

import (
	"fmt"
	"reflect"
	"strings"
)

// Reference describes every key in Markdown, from the same tags that the reader obeys. docs/config.md is its output, and a
// test holds that.
func Reference() string {
	var b strings.Builder
	b.WriteString(`# Configuration

One YAML file a daemon. ` + "`kedge check FILE...`" + ` validates it without starting anything and reports every mistake with its line;
` + "`examples/`" + ` has files to begin with. Unknown keys are errors. Durations carry their unit (` + "`300ms`, `10s`, `5m`, `1h`" + `), rates are
` + "`2000/s`" + `. Write IPv6 and MAC addresses in quotes: YAML gives the colon a meaning of its own.

This page is generated from the program: ` + "`go test ./internal/config -update`" + `.
`)
	section := "-"
	walkShape(reflect.TypeFor[rawFile](), "", func(path string, f reflect.StructField) {
		if path != section {
			section = path
			title := "`" + path + "`"
			if path == "" {
				title = "Top level"
			}
			fmt.Fprintf(&b, "\n## %s\n\n| key | value | default | meaning |\n|---|---|---|---|\n", title)
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.Tag.Get("yaml"), valueDoc(f), defaultDoc(f), cell(f.Tag.Get("doc")+citeDoc(f)))
	})
	return b.String()
}

func cell(s string) string { return strings.ReplaceAll(s, "|", "\\|") }

func citeDoc(f reflect.StructField) string {
	if r := f.Tag.Get("rfc"); r != "" {
		return " (" + r + ")"
	}
	return ""
}

// valueDoc says what a value looks like.
func valueDoc(f reflect.StructField) string {
	if f.Tag.Get("later") != "" && f.Type == reflect.TypeFor[later]() {
		return "not in this version"
	}
	t := f.Type
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	many := ""
	if it, ok := reflect.New(t).Interface().(interface{ itemType() reflect.Type }); ok {
		t, many = it.itemType(), "list of "
		if strings.HasPrefix(f.Type.Name(), "dict") {
			many = "map of "
		}
		if f.Tag.Get("single") != "" {
			many = "one or a list of "
		}
	}
	if isSection(t) {
		if many != "" {
			return cell(many + "sections, below")
		}
		return "section, below"
	}
	var out string
	switch e, r := f.Tag.Get("enum"), f.Tag.Get("range"); {
	case e != "":
		out = "`" + strings.ReplaceAll(e, "|", "`, `") + "`"
	case r != "":
		lo, hi, _ := strings.Cut(r, "..")
		out = lo + " to " + hi
		if lo == hi {
			out = lo
		}
	default:
		out = "text"
		if l, ok := reflect.New(t).Interface().(interface{ typeName() string }); ok {
			out = l.typeName()
		}
		switch f.Tag.Get("family") {
		case "4":
			out = "IPv4 " + out
		case "6":
			out = "IPv6 " + out
		}
		if ex := f.Tag.Get("ex"); ex != "" {
			out += ", as `" + ex + "`"
		}
	}
	return cell(many + out)
}

func (l *leaf[T]) typeName() string {
	var v T
	n := typeName(v)
	return strings.TrimPrefix(strings.TrimPrefix(n, "an "), "a ")
}

func defaultDoc(f reflect.StructField) string {
	switch def, ok := f.Tag.Lookup("def"); {
	case ok:
		return "`" + strings.ReplaceAll(def, " ", "`, `") + "`"
	case f.Tag.Get("req") != "":
		return "must be written"
	}
	return ""
}
