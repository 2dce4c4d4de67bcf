package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"kedge/internal/observe"
)

// events streams records. A client that reads too slowly is told how many it missed; one that does not read at all is cut
// off after writeTimeout.
func (s *Server) events(w http.ResponseWriter, r *http.Request) error {
	backlog, err := number(r, "backlog", 100, maxBacklog)
	if err != nil {
		return err
	}
	messages, err := flag(r, "messages", false)
	if err != nil {
		return err
	}
	follow, err := flag(r, "follow", true)
	if err != nil {
		return err
	}
	if s.cfg.Hub == nil {
		return &Error{Status: http.StatusNotFound, Message: "this daemon keeps no events"}
	}
	sub, err := s.cfg.Hub.Subscribe(backlog, messages)
	if err != nil {
		return &Error{Status: http.StatusServiceUnavailable, Message: err.Error(), Want: "end one of them"}
	}
	defer sub.Close()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	out := &stream{w: w, rc: http.NewResponseController(w), hub: s.cfg.Hub}
	if err := out.comment(); err != nil {
		return nil
	}
	for {
		ctx, cancel := context.WithTimeout(r.Context(), keepAlive)
		if !follow {
			cancel() // Next gives what is there and does not wait
		}
		rec, lost, err := sub.Next(ctx)
		cancel()
		switch {
		case errors.Is(err, context.DeadlineExceeded) && follow && r.Context().Err() == nil:
			err = out.comment()
		case err != nil:
			return nil // the client or the daemon is gone
		default:
			err = out.record(rec, lost)
			if err == nil && !sub.Pending() {
				err = out.flush()
			}
		}
		if err != nil {
			return nil
		}
	}
}

// stream writes server-sent events.
type stream struct {
	w   http.ResponseWriter
	rc  *http.ResponseController
	hub *observe.Hub
}

func (s *stream) flush() error { return s.rc.Flush() }

func (s *stream) deadline() {
	// Recorders of tests have no deadlines; real connections do.
	_ = s.rc.SetWriteDeadline(time.Now().Add(writeTimeout))
}

// comment is a line that clients ignore: a sign of life.
func (s *stream) comment() error {
	s.deadline()
	if _, err := fmt.Fprint(s.w, ":\n\n"); err != nil {
		return err
	}
	return s.flush()
}

func (s *stream) record(rec *observe.Record, lost uint64) error {
	s.deadline()
	if lost > 0 {
		if _, err := fmt.Fprintf(s.w, "event: lost\ndata: {\"count\":%d}\n\n", lost); err != nil {
			return err
		}
	}
	b, err := json.Marshal(s.hub.Line(rec))
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.w, "id: %d\nevent: %s\ndata: %s\n\n", rec.Seq, rec.Kind, b)
	return err
}
