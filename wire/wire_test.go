package wire

import (
	"errors"
	"fmt"
	"testing"
)

func TestReasonOf(t *testing.T) {
	bad := &Error{Msg: "Binding Update", Reason: BadLength, Err: Truncated}
	for _, c := range []struct {
		name string
		err  error
		want Reason
	}{
		{"none", nil, Malformed},
		{"without a reason", errors.New("x"), Malformed},
		{"a reason", BadChecksum, BadChecksum},
		{"a reason within", fmt.Errorf("x: %w", BadChecksum), BadChecksum},
		{"of a parser, not its cause's", bad, BadLength},
		{"of a parser within", fmt.Errorf("x: %w", bad), BadLength},
		{"of a parser, not that beside it", errors.Join(BadChecksum, bad), BadLength},
	} {
		if got := ReasonOf(c.err); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		if n := testing.AllocsPerRun(100, func() { ReasonOf(c.err) }); n != 0 {
			t.Errorf("%s: %v allocations", c.name, n)
		}
	}
}
