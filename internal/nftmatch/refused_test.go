package nftmatch

import (
	"errors"
	"fmt"
	"testing"
)

// TestRefused: of many reasons, each inside of another, the first one is told.
func TestRefused(t *testing.T) {
	no := errors.New("operation not supported")
	err := error(no)
	for range 3 {
		err = errors.Join(err, errors.New("no such file or directory"))
	}
	err = Refused(fmt.Errorf("receive: %w", err))
	if !errors.Is(err, no) || err.Error() != "nftables: operation not supported" {
		t.Errorf("%q", err)
	}
	if err := Refused(no); err.Error() != "nftables: operation not supported" {
		t.Errorf("%q", err)
	}
}
