package config

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// MaxFile is the largest file that is read, in octets: some 200,000 subscribers.
const MaxFile = 16 << 20

// maxDepth is how deep a file may nest; the parser is recursive.
const maxDepth = 32

// maxErrors is how many mistakes are reported at once.
const maxErrors = 100

// Load reads and validates a file. The error is Errors with every mistake of the file, or that of opening it.
func Load(path string) (*Config, []Warning, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if st.IsDir() {
		return nil, nil, fmt.Errorf("%s is a directory: give a config file", path)
	}
	if st.Size() > MaxFile {
		return nil, nil, fmt.Errorf("%s has %d octets, more than the %d that a config may have", path, st.Size(), MaxFile)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	return Parse(path, b)
}

// Parse validates the text of a file; the name is for messages. The error is Errors.
func Parse(file string, text []byte) (*Config, []Warning, error) {
	if len(text) > MaxFile {
		return nil, nil, fmt.Errorf("%s has %d octets, more than the %d that a config may have", file, len(text), MaxFile)
	}
	// The parser counts columns by what it sees: without the marks of other systems they are those of an editor.
	clean := strings.ReplaceAll(strings.TrimPrefix(string(text), "\ufeff"), "\r\n", "\n")
	d := &decoder{src: newSource(file, clean), at: map[string]position{}, meant: map[string]bool{}}
	var raw rawFile
	if root := d.tree(clean); root != nil {
		raw.at = at{pos: d.position(root), set: true}
		d.section(reflect.ValueOf(&raw).Elem(), root, "", position{Line: raw.pos.Line, Col: raw.pos.Col, Len: 1})
		d.defaults(reflect.ValueOf(&raw).Elem(), "")
	}
	// Relations between values mean something only where the values themselves are right; each check looks at what it
	// needs, so that a file with one wrong prefix still shows its other mistakes.
	v := &validator{decoder: d}
	cfg := v.file(&raw)
	if len(d.errs) > 0 {
		slices.SortStableFunc(d.errs, func(a, b *Error) int {
			if a.Line != b.Line {
				return a.Line - b.Line
			}
			return a.Col - b.Col
		})
		if len(d.errs) > maxErrors {
			d.errs = d.errs[:maxErrors]
		}
		return nil, nil, d.errs
	}
	cfg.File, cfg.at, cfg.src = file, d.at, d.src
	return cfg, v.warnings, nil
}

// tree parses YAML into one mapping, or reports why not.
func (d *decoder) tree(text string) (root ast.Node) {
	if !utf8.ValidString(text) {
		d.errAt("", d.invalid(text), "is not UTF-8 text", "save the file as UTF-8")
		return nil
	}
	start := position{Line: 1, Col: 1, Len: 1}
	defer func() {
		// The parser is a stranger's: what it cannot take must not end the daemon that reloads a file.
		if r := recover(); r != nil {
			d.errAt("", start, fmt.Sprintf("the YAML parser fails here: %v", r), "write plain keys and values")
			root = nil
		}
	}()
	tokens := lexer.Tokenize(text)
	if deep := tooDeep(tokens); deep != nil {
		d.errAt("", position{Line: deep.Position.Line, Col: deep.Position.Column, Len: 1},
			fmt.Sprintf("is nested deeper than %d levels", maxDepth), "write plain keys and values")
		return nil
	}
	f, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		d.syntax(err)
		return nil
	}
	var bodies []ast.Node
	for _, doc := range f.Docs {
		if doc.Body != nil {
			bodies = append(bodies, doc.Body)
		}
	}
	switch {
	case len(bodies) == 0:
		d.errAt("", start, "the file is empty", "see examples/ for what it may hold")
		return nil
	case len(bodies) > 1:
		d.errAt("", d.position(bodies[1]), "a second document begins", "write one file a daemon, without ---")
		return nil
	}
	switch bodies[0].(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return bodies[0]
	}
	d.errAt("", d.position(bodies[0]), "the file is "+kindOf(bodies[0])+", not a map", `begin with "version: 1"`)
	return nil
}

// syntax reports what the parser found.
func (d *decoder) syntax(err error) {
	var se *yaml.SyntaxError
	if !errors.As(err, &se) || se.Token == nil || se.Token.Position == nil {
		d.errAt("", position{Line: 1, Col: 1, Len: 1}, "is not YAML: "+firstLine(err.Error()), "")
		return
	}
	pos := position{Line: se.Token.Position.Line, Col: se.Token.Position.Column}
	pos.Len = d.src.width(pos.Line, pos.Col, se.Token.Value)
	want := "write keys and values as in \"key: value\""
	switch line := d.src.line(pos.Line); {
	case strings.Contains(strings.TrimLeft(line, " "), "\t") && strings.HasPrefix(strings.TrimLeft(line, " "), "\t"):
		want = "indent with spaces, not with tabs"
	case strings.Contains(line, "::"):
		want = "write IPv6 addresses in quotes"
	}
	d.errAt("", pos, "is not YAML: "+se.Message, want)
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}

// invalid finds the first octet that is no UTF-8.
func (d *decoder) invalid(text string) position {
	line, col := 1, 1
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRuneInString(text[i:])
		if r == utf8.RuneError && n == 1 {
			break
		}
		col++
		if r == '\n' {
			line, col = line+1, 1
		}
		i += n
	}
	return position{Line: line, Col: col, Len: 1}
}

// tooDeep gives the token that exceeds maxDepth. Braces and brackets nest, and so do keys and dashes on one line; blocks
// nest by indentation.
func tooDeep(tokens token.Tokens) *token.Token {
	flow, line, onLine := 0, 0, 0
	var columns []int
	for _, t := range tokens {
		if t.Position.Line != line {
			line, onLine = t.Position.Line, 0
			if flow == 0 {
				for len(columns) > 0 && columns[len(columns)-1] >= t.Position.Column {
					columns = columns[:len(columns)-1]
				}
				columns = append(columns, t.Position.Column)
			}
		}
		switch t.Type {
		case token.MappingStartType, token.SequenceStartType:
			flow++
		case token.MappingEndType, token.SequenceEndType:
			flow = max(flow-1, 0)
		case token.SequenceEntryType, token.MappingKeyType, token.AnchorType, token.TagType:
			onLine++
		}
		if flow > maxDepth || onLine > maxDepth || len(columns) > maxDepth {
			return t
		}
	}
	return nil
}
