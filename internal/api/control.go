package api

import (
	"context"
	"net/http"
	"time"

	"kedge/internal/core"
)

// stopTimeout is for a mobile node's deregistration: lost messages are sent again before the node gives up.
const stopTimeout = 20 * time.Second

// stop ends the daemon. A mobile node first gives back what it has: its binding, and all that it has set on this host; a
// home agent says on its home link that it is none any more, and a correspondent tells mobile nodes that their bindings are over.
func (s *Server) stop(w http.ResponseWriter, r *http.Request) error {
	if s.cfg.Stop == nil {
		return &Error{Status: http.StatusConflict, Message: "this daemon cannot be stopped from here", Want: "send it SIGTERM"}
	}
	// A second stop, and a client that goes away, must not leave a node half undone.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), stopTimeout)
	defer cancel()
	var failed error
	for _, role := range s.cfg.Roles {
		if role.Name != "node" && role.Name != "anchor" && role.Name != "peer" {
			continue
		}
		if _, err := role.Commander.Command(ctx, core.Stop{}); err != nil {
			failed = err
		}
	}
	// It ends also if the home agent does not answer: the binding expires, and what was set here is swept.
	defer s.cfg.Stop()
	if failed != nil {
		return failed
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// roam tells a mobile node which link to prefer.
func (s *Server) roam(w http.ResponseWriter, r *http.Request) error {
	var body core.Roam
	if err := read(r, &body); err != nil {
		return err
	}
	for _, role := range s.cfg.Roles {
		if role.Name != "node" {
			continue
		}
		ctx, cancel := context.WithTimeout(r.Context(), commandTimeout)
		defer cancel()
		if _, err := role.Commander.Command(ctx, body); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	return &Error{Status: http.StatusConflict, Message: "this daemon is no mobile node", Want: "ask the node whose link shall change"}
}
