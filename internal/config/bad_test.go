package config

import (
	"errors"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kedge/internal/spec"
)

var update = flag.Bool("update", false, "write testdata/bad.txt and docs/config.md as the code is now")

// badCase is one case of testdata/bad.txt: edits of a good file, or a whole file, and everything that is said about it.
type badCase struct {
	name, input, want string
	edits             []string
}

// readBad reads cases of the form
//
//	== name
//	anchor| old | new           (edits of testdata/anchor.yaml; \n is a new line)
//	--
//	the whole message
//
// A first line "file|" is followed by the file itself.
func readBad(t *testing.T) []badCase {
	t.Helper()
	b, err := os.ReadFile("testdata/bad.txt")
	if err != nil {
		t.Fatal(err)
	}
	good := map[string]string{}
	for _, role := range []string{"anchor", "gateway", "homeagent", "node"} {
		b, err := os.ReadFile("testdata/" + role + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		good[role] = string(b)
	}
	var out []badCase
	for _, block := range strings.Split("\n"+string(b), "\n== ")[1:] {
		name, rest, _ := strings.Cut(block, "\n")
		input, want, ok := strings.Cut(rest+"\n", "\n--\n")
		if !ok {
			t.Fatalf("%s: no line --", name)
		}
		c := badCase{name: name, want: strings.TrimRight(want, "\n"), edits: []string{input}}
		if text, ok := strings.CutPrefix(input, "file|\n"); ok {
			c.input = strings.NewReplacer(`\t`, "\t", `\x00`, "\xff", `\r`, "\r").Replace(text) + "\n"
			out = append(out, c)
			continue
		}
		c.input = ""
		for _, edit := range strings.Split(input, "\n") {
			p := strings.SplitN(edit, "|", 3)
			if len(p) != 3 {
				t.Fatalf("%s: edit %q is not of the form anchor| old | new", name, edit)
			}
			if c.input == "" {
				c.input = good[p[0]]
			}
			from, to := strings.ReplaceAll(strings.TrimSpace(p[1]), `\n`, "\n"), strings.ReplaceAll(strings.TrimSpace(p[2]), `\n`, "\n")
			if !strings.Contains(c.input, from) {
				t.Fatalf("%s: %q is not in testdata/%s.yaml", name, from, p[0])
			}
			c.input = strings.Replace(c.input, from, to, 1)
		}
		out = append(out, c)
	}
	return out
}

// TestBad holds the whole message of every mistake: line, column, text, caret, and what would be right.
func TestBad(t *testing.T) {
	cases := readBad(t)
	if len(cases) < 60 {
		t.Fatalf("only %d bad files", len(cases))
	}
	var written strings.Builder
	for _, c := range cases {
		_, _, err := Parse("bad.yaml", []byte(c.input))
		got := ""
		if err != nil {
			got = err.Error()
		}
		written.WriteString("== " + c.name + "\n" + c.edits[0] + "\n--\n" + got + "\n")
		t.Run(c.name, func(t *testing.T) {
			var es Errors
			if !errors.As(err, &es) {
				t.Fatalf("no Errors but %v", err)
			}
			for _, e := range es {
				if e.Line < 1 || e.Col < 1 || e.Problem == "" || e.Want == "" {
					t.Errorf("incomplete: %+v", e)
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" && !*update {
				t.Errorf("-want +got:\n%s", diff)
			}
			// The caret must stand under what is blamed, whatever the parser thinks of columns.
			lines := strings.Split(strings.ReplaceAll(c.input, "\r\n", "\n"), "\n")
			for _, e := range es {
				if e.Line > len(lines) || e.Col > len([]rune(lines[e.Line-1]))+1 {
					t.Errorf("%d:%d is outside the file", e.Line, e.Col)
				}
			}
		})
	}
	if *update {
		if err := os.WriteFile("testdata/bad.txt", []byte(written.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestOverlappingPools: where addresses are assigned from several places, a configuration that could give one address to
// two hosts does not start.
func TestOverlappingPools(t *testing.T) {
	b, err := os.ReadFile("testdata/anchor.yaml")
	if err != nil {
		t.Fatal(err)
	}
	with := func(pool string) error {
		_, _, err := Parse("a.yaml", []byte(strings.Replace(string(b), "  pools:\n", "  pools:\n    - "+pool+"\n", 1)))
		return err
	}
	for _, c := range []struct {
		pool string
		bad  bool
	}{
		{"{ name: more, prefix: 10.20.0.0/16 }", true},
		{"{ name: more, prefix: 10.20.128.0/24 }", true},
		{"{ name: more, prefix: 10.0.0.0/8 }", true},
		{`{ name: more, prefix: "2001:db8:1fff::/48" }`, true},
		{"{ name: more, prefix: 10.21.0.0/16 }", false},
		{"{ name: more, domain: 1, prefix: 10.20.0.0/16 }", false},
	} {
		if err := with(c.pool); (err != nil) != c.bad {
			t.Errorf("%s: %v", c.pool, err)
		} else if c.bad && !strings.Contains(err.Error(), "overlaps") {
			t.Errorf("%s: refused for another reason: %v", c.pool, err)
		}
	}
	spec.Covers(t, "S001-6-05")
}
