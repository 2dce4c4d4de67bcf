package loop

import (
	"context"
	"errors"
	"sync"

	"kedge/internal/core"
)

// Answerer serves core.Ask: it may wait, for name servers say, until ctx ends.
type Answerer func(ctx context.Context, body any) (any, error)

// maxAsks is how many questions may be open at a time; more are refused at once.
const maxAsks = 16

var errBusy = errors.New("too many questions are open")

// asks are the open questions of a machine.
type asks struct {
	mu   sync.Mutex
	open int
	end  context.Context // of the loop; nil = it does not run
	wg   sync.WaitGroup
}

// ask has a question answered beside the loop.
func (l *Loop) ask(q core.Ask) {
	a := &l.asks
	a.mu.Lock()
	free := a.end != nil && a.open < maxAsks
	if free {
		a.open++
		a.wg.Add(1)
	}
	end := a.end
	a.mu.Unlock()
	if !free {
		l.offer(core.Answer{Ref: q.Ref, Err: errBusy})
		return
	}
	go func() {
		defer a.wg.Done()
		body, err := l.cfg.Answer(end, q.Body)
		a.mu.Lock()
		a.open--
		a.mu.Unlock()
		select {
		case l.events <- core.Answer{Ref: q.Ref, Body: body, Err: err}:
		case <-end.Done():
		}
	}()
}

// begin lets questions be asked until ctx ends; the result waits for those that are open.
func (a *asks) begin(ctx context.Context) (wait func()) {
	a.mu.Lock()
	a.end = ctx
	a.mu.Unlock()
	return func() {
		a.mu.Lock()
		a.end = nil
		a.mu.Unlock()
		a.wg.Wait()
	}
}
