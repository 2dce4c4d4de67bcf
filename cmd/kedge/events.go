package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"kedge/internal/api"
)

type eventsCmd struct {
	Follow   bool `short:"f" help:"Go on with what happens, until ctrl-C."`
	Backlog  int  `short:"n" default:"100" help:"Show so many recent events first."`
	Messages bool `short:"m" help:"Signalling messages too. They are kept only while somebody asks for them."`
	daemon
}

// Run shows events; as JSON one line each, in the form of the event stream.
func (c *eventsCmd) Run(e *env) error {
	if c.Backlog < 0 {
		return usageError{fmt.Errorf("--backlog %d: write 0 or more", c.Backlog)}
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	err = cl.Events(e.ctx, api.EventOptions{Backlog: c.Backlog, Messages: c.Messages, Once: !c.Follow}, func(ev api.Event) error {
		if ev.Lost > 0 {
			fmt.Fprintf(e.stderr, "kedge: %d events were lost here: this reader is too slow\n", ev.Lost)
		}
		if ev.Raw == nil {
			return nil
		}
		if e.json {
			_, err := fmt.Fprintf(e.stdout, "%s\n", ev.Raw)
			return err
		}
		_, err := fmt.Fprintln(e.stdout, eventText(ev))
		return err
	})
	if errors.Is(err, context.Canceled) {
		return nil // ctrl-C is how one ends it
	}
	return err
}

// shownFirst are fields that stand right after an event's name, without their key.
var shownFirst = []string{"sub", "peer"}

// eventText is one event on one line.
func eventText(ev api.Event) string {
	var body map[string]any
	dec := json.NewDecoder(strings.NewReader(string(ev.Line.Body)))
	dec.UseNumber()
	if dec.Decode(&body) != nil {
		body = map[string]any{"body": string(ev.Line.Body)}
	}
	take := func(key string) string {
		v, ok := body[key]
		delete(body, key)
		if !ok {
			return ""
		}
		return fmt.Sprint(v)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %-7s %-15s", ev.Line.Wall.Local().Format("15:04:05.000"), take("role"), ev.Line.Name)
	if dir := take("dir"); dir != "" {
		arrow := map[string]string{"in": "<-", "out": "->"}[dir]
		if remote := take("remote"); remote != "" {
			fmt.Fprintf(&b, " %s %s", arrow, remote)
		} else {
			fmt.Fprintf(&b, " %s", arrow)
		}
		take("local")
		take("type")
	}
	for _, k := range shownFirst {
		if v := take(k); v != "" {
			b.WriteString(" " + v)
		}
	}
	if from, to := take("from"), take("to"); from != "" || to != "" {
		fmt.Fprintf(&b, " %s -> %s", or(from, "-"), or(to, "-"))
	}
	if why := take("reason"); why != "" {
		fmt.Fprintf(&b, " (%s)", why)
	}
	if ev.Line.ID != 0 {
		fmt.Fprintf(&b, " id=%d", ev.Line.ID)
	}
	for _, k := range slices.Sorted(maps.Keys(body)) {
		fmt.Fprintf(&b, " %s=%v", k, body[k])
	}
	return printable(b.String())
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
