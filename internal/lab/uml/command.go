package uml

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"

	"kedge/internal/lab/uml/channel"
)

// Command is one that runs, or ran, in a guest.
type Command struct {
	g    *Guest
	id   uint64
	name string
	done chan struct{}
	more chan struct{} // output came

	mu   sync.Mutex
	out  bytes.Buffer
	read int // of out, by Line
	err  error
}

func (c *Command) said(b []byte) {
	c.mu.Lock()
	c.out.Write(b)
	c.mu.Unlock()
	select {
	case c.more <- struct{}{}:
	default:
	}
}

// finish is called once.
func (c *Command) finish(err error) {
	c.mu.Lock()
	c.err = err
	c.mu.Unlock()
	close(c.done)
}

// Output is all that it has said so far.
func (c *Command) Output() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.String()
}

// Wait waits for its end. A context that ends first ends the command.
func (c *Command) Wait(ctx context.Context) (string, error) {
	select {
	case <-c.done:
	case <-ctx.Done():
		c.Stop()
		return c.Output(), fmt.Errorf("guest: %s: %w\n%s", c.name, ctx.Err(), c.Output())
	}
	if c.err != nil {
		return c.Output(), fmt.Errorf("guest: %s: %w\n%s", c.name, c.err, c.Output())
	}
	return c.Output(), nil
}

// Line waits for the next line that it says, without its end.
func (c *Command) Line(ctx context.Context) (string, error) {
	for {
		ended := false
		select {
		case <-c.done:
			ended = true
		default:
		}
		c.mu.Lock()
		line, _, whole := strings.Cut(c.out.String()[c.read:], "\n")
		if whole {
			c.read += len(line) + 1
		}
		c.mu.Unlock()
		if whole {
			return line, nil
		}
		if ended {
			return "", fmt.Errorf("guest: %s ended (%v) with %q and no line", c.name, c.err, line)
		}
		select {
		case <-c.more:
		case <-c.done:
		case <-ctx.Done():
			return "", fmt.Errorf("guest: %s: no line: %w", c.name, ctx.Err())
		}
	}
}

// Stop ends it and its children.
func (c *Command) Stop() {
	c.g.mu.Lock()
	defer c.g.mu.Unlock()
	if !c.g.gone {
		c.g.last++
		_ = c.g.send(c.g.last, channel.Request{ID: c.id, Kill: true}) // a guest that is gone has no commands
	}
}
