package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
)

// unknownKey says what an unknown key may have meant: a near key of the section, else the section where it belongs, else
// what the section knows.
func unknownKey(key string, known []string) (problem, want, meant string) {
	problem = "unknown key"
	if near, ok := nearest(key, known); ok {
		return problem, fmt.Sprintf("did you mean %q?", near), near
	}
	if homes := elsewhere()[key]; len(homes) > 0 {
		return problem, "it belongs under " + join(homes, "or"), ""
	}
	return problem, "known here: " + join(known, "and"), ""
}

// nearest finds the word with the fewest edits, if they are few for its length.
func nearest(word string, among []string) (string, bool) {
	plain := func(s string) string { return strings.ReplaceAll(strings.ToLower(s), "_", "-") }
	best, dist := "", 0
	if len(word) < 2 {
		return "", false
	}
	for _, w := range among {
		d := edits(plain(word), w)
		// Singular for plural and a missing part of a compound are usual slips and cost more edits than typing errors.
		if d > max(1, len(w)/3) && !(len(word) >= 4 && strings.HasPrefix(w, plain(word))) {
			continue
		}
		if best == "" || d < dist {
			best, dist = w, d
		}
	}
	return best, best != ""
}

// edits is the distance in insertions, deletions, replacements and swaps of neighbours.
func edits(a, b string) int {
	x, y := []rune(a), []rune(b)
	if len(x) > 64 || len(y) > 64 {
		return 64 // no key is that long
	}
	prev2, prev, cur := make([]int, len(y)+1), make([]int, len(y)+1), make([]int, len(y)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(x); i++ {
		cur[0] = i
		for j := 1; j <= len(y); j++ {
			cost := 1
			if x[i-1] == y[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && x[i-1] == y[j-2] && x[i-2] == y[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
		prev2, prev, cur = prev, cur, prev2
	}
	return prev[len(y)]
}

// join reads "a, b or c".
func join(words []string, last string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " " + last + " " + words[len(words)-1]
}

func keysOf(t reflect.Type) []string {
	var out []string
	for i := range t.NumField() {
		if k := t.Field(i).Tag.Get("yaml"); k != "" {
			out = append(out, k)
		}
	}
	return out
}

// elsewhere maps each key of the shape to the sections that have it.
var elsewhere = sync.OnceValue(func() map[string][]string {
	out := map[string][]string{}
	walkShape(reflect.TypeFor[rawFile](), "", func(section string, f reflect.StructField) {
		key := f.Tag.Get("yaml")
		if section == "" {
			section = "the top of the file"
		}
		if !slices.Contains(out[key], section) {
			out[key] = append(out[key], section)
		}
	})
	return out
})

// walkShape visits every field of the shape, a section's own fields before its subsections; section is its path, "[]" for
// items of a list.
func walkShape(t reflect.Type, section string, visit func(section string, f reflect.StructField)) {
	fields := make([]reflect.StructField, 0, t.NumField())
	for i := range t.NumField() {
		if f := t.Field(i); f.Tag.Get("yaml") != "" {
			fields = append(fields, f)
			visit(section, f)
		}
	}
	for _, f := range fields {
		sub := f.Tag.Get("yaml")
		if section != "" {
			sub = section + "." + sub
		}
		ft := f.Type
		if ft.Kind() == reflect.Pointer {
			ft = ft.Elem()
		}
		if it, ok := reflect.New(ft).Interface().(interface{ itemType() reflect.Type }); ok {
			ft, sub = it.itemType(), sub+"[]"
		}
		if isSection(ft) {
			walkShape(ft, sub, visit)
		}
	}
}

// isSection says that a type is a struct with keys, not a value.
func isSection(t reflect.Type) bool {
	if t.Kind() != reflect.Struct {
		return false
	}
	_, value := reflect.New(t).Interface().(decodable)
	return !value
}

func (l *list[T]) itemType() reflect.Type { return reflect.TypeFor[T]() }
func (m *dict[T]) itemType() reflect.Type { return reflect.TypeFor[T]() }
