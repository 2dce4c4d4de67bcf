package bench

import (
	"fmt"
	"os"
	"slices"
	"testing"

	"kedge/internal/bench/peer"
)

// TestMain makes this binary a peer when it is started as one.
func TestMain(m *testing.M) {
	if slices.Equal(os.Args[1:], PeerArgs) {
		if err := peer.Run(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}
