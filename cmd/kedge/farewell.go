package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"time"

	"kedge/internal/core"
)

// farewellTimeout is for the deregistration of a node that somebody interrupts at a terminal.
const farewellTimeout = 20 * time.Second

// farewell serves the end by a signal. Who interrupts a daemon at a terminal wants the machine back as it was: programs in the kernel
// end; a mobile node deregisters and takes back what it has set, and a second interrupt does not wait for the home agent; a home agent that
// advertises itself says that it is none any more (RFC 4861 6.2.5). SIGTERM leaves
// all in place, as a crash does, for the next start to adopt; but the bindings of a correspondent end with the process in any case, so
// mobile nodes are told.
func farewell(by context.Context, roles []*role, log *slog.Logger) {
	only := !interrupted(by) // correspondents
	if !only {
		endAll(roles)
	}
	again := make(chan os.Signal, 1)
	signal.Notify(again, os.Interrupt)
	defer signal.Stop(again)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(by), farewellTimeout)
	defer cancel()
	go func() {
		select {
		case <-again:
			cancel()
		case <-ctx.Done():
		}
	}()
	for _, r := range roles {
		switch {
		case only && !r.tells:
			continue
		case r.device != "":
			log.Info("interrupted: the node deregisters; once more to end at once")
		case !r.advertises && !r.tells:
			continue
		}
		if _, err := r.Command(ctx, core.Stop{}); err != nil {
			log.Warn("not all that others should know has been said", "err", err)
		}
	}
}

// interrupted says that a context of signal.NotifyContext ended by os.Interrupt.
func interrupted(ctx context.Context) bool {
	cause := context.Cause(ctx)
	return cause != nil && strings.Contains(cause.Error(), os.Interrupt.String())
}

// endAll says that nobody comes back for what the roles have.
func endAll(roles []*role) {
	for _, r := range roles {
		r.ended.Store(true)
	}
}
