package config

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// position is where a value stands. Col counts characters from 1; Len is the width of the offending text.
type position struct{ Line, Col, Len int }

// Error is one mistake in a file.
type Error struct {
	File      string
	Line, Col int
	Key       string // path of the key: anchor.pools[1].prefix
	Problem   string // what is wrong
	Want      string // what would be right
	Source    string // the line
	Len       int    // width of the offending text in Source
}

// Error reads
//
//	lma1.yaml:9:15: anchor.pools[1].prefix: 10.20.0.1/16 has host bits set; write 10.20.0.0/16
//	    9 | - { prefix: 10.20.0.1/16 }
//	      |             ^^^^^^^^^^^^
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%d:%d: ", e.File, e.Line, e.Col)
	if e.Key != "" {
		fmt.Fprintf(&b, "%s: ", e.Key)
	}
	b.WriteString(e.Problem)
	if e.Want != "" {
		fmt.Fprintf(&b, "; %s", e.Want)
	}
	b.WriteString(e.excerpt())
	return b.String()
}

// maxExcerpt is how many characters of a line an error shows; a longer line is cut around the caret.
const maxExcerpt = 120

func (e *Error) excerpt() string {
	if strings.TrimSpace(e.Source) == "" {
		return ""
	}
	line := []rune(strings.ReplaceAll(e.Source, "\t", " ")) // a tab's width is unknown, the caret must fit
	col := min(max(e.Col-1, 0), len(line))
	if from := col - maxExcerpt/2; len(line) > maxExcerpt && from > 0 {
		line, col = append([]rune("…"), line[from:]...), col-from+1
	}
	if len(line) > maxExcerpt {
		line = append(line[:maxExcerpt:maxExcerpt], '…')
	}
	n := max(min(e.Len, len(line)-col), 1)
	return fmt.Sprintf("\n%5d | %s\n      | %s%s", e.Line, string(line), strings.Repeat(" ", col), strings.Repeat("^", n))
}

// Errors are all mistakes of a file in the order of their lines.
type Errors []*Error

func (es Errors) Error() string {
	var b strings.Builder
	for i, e := range es {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(e.Error())
	}
	if len(es) > 1 {
		fmt.Fprintf(&b, "\n%d errors", len(es))
	}
	return b.String()
}

// Unwrap gives each error to errors.As.
func (es Errors) Unwrap() []error {
	out := make([]error, len(es))
	for i, e := range es {
		out[i] = e
	}
	return out
}

// Kind of a Warning.
type Kind string

// What may be meant, but should be known.
const (
	Unprotected   Kind = "unprotected"    // signalling with a peer is not protected
	NotDurable    Kind = "not-durable"    // a restart loses every session
	OpenDomain    Kind = "open"           // hosts that nobody wrote down are served
	BeyondRFC     Kind = "beyond-rfc"     // outside what an RFC says SHOULD be
	NoHost        Kind = "no-host"        // nobody can be served
	PoolTooSmall  Kind = "pool-too-small" // a pool holds fewer addresses than sessions may exist
	UnusedSetting Kind = "unused"         // has no effect here
	NeedsRoute    Kind = "needs-route"    // other routers must be told
	WeakSuite     Kind = "weak-suite"     // cryptography that is for interoperation only
	NoIPv4        Kind = "no-ipv4"        // nodes are cut off where there is no IPv6
	ShortTimer    Kind = "short-timer"    // works on good paths only
	NotAuthorized Kind = "not-authorized" // across files: a request will be refused
)

// Warning is something that starts, but should be known: logged at start and shown in status.
type Warning struct {
	File string `json:"file"`
	Line int    `json:"line"`
	Key  string `json:"key"`
	Kind Kind   `json:"kind"`
	Text string `json:"text"`
}

func (w Warning) String() string {
	return fmt.Sprintf("%s:%d: %s: %s (%s)", w.File, w.Line, w.Key, w.Text, w.Kind)
}

// source is the text of a file by line.
type source struct {
	file  string
	lines []string
}

func newSource(file, text string) *source {
	return &source{file: file, lines: strings.Split(text, "\n")}
}

func (s *source) line(n int) string {
	if n < 1 || n > len(s.lines) {
		return ""
	}
	return s.lines[n-1]
}

// width is how long the written text at a position is: a quoted scalar with its quotes, else the parser's value, else one.
func (s *source) width(line, col int, value string) int {
	r := []rune(s.line(line))
	if col < 1 || col > len(r) {
		return 1
	}
	if q := r[col-1]; q == '"' || q == '\'' {
		for i := col; i < len(r); i++ {
			if r[i] == q && (q == '\'' || r[i-1] != '\\') {
				return i - col + 2
			}
		}
		return len(r) - col + 1
	}
	return max(utf8.RuneCountInString(strings.TrimSpace(value)), 1)
}
