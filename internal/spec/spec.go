// Package spec ties tests to the requirements of the five documents. A test that would fail without a behaviour claims
// the requirement's id; coverage is counted from the tests that passed.
package spec

import (
	"regexp"
	"strings"
	"testing"
)

var id = regexp.MustCompile(`^(S00[0-4]-[0-9A-Za-z.]+-\d+|RFC\d+-[0-9A-Za-z.]+)$`)

// Covers logs "covers: ID ..." so that a passing test counts for these requirements. It fails the test on an id that has
// no requirement's form.
func Covers(t testing.TB, ids ...string) {
	t.Helper()
	for _, i := range ids {
		if !id.MatchString(i) {
			t.Fatalf("%q is no requirement id: want S001-3.2.2-03", i)
		}
	}
	t.Logf("covers: %s", strings.Join(ids, " "))
}
