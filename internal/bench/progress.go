package bench

import (
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/term"
)

// progress tells people how far a run is: on a terminal in one line that changes, else a line now and then.
type progress struct {
	w     io.Writer
	line  bool // of a terminal
	start time.Time
	done  int
	total int
	last  time.Time
}

// often is how often a log gets a line.
const often = 10 * time.Second

func newProgress(w io.Writer) *progress {
	f, ok := w.(*os.File)
	return &progress{w: w, line: ok && term.IsTerminal(int(f.Fd()))}
}

// say tells what is done now.
func (p *progress) say(format string, args ...any) {
	s := fmt.Sprintf(format, args...)
	switch {
	case p.line:
		fmt.Fprintf(p.w, "\r\033[K%s", s)
	case time.Since(p.last) >= often:
		fmt.Fprintln(p.w, s)
		p.last = time.Now()
	}
}

// begin counts steps from now on, and tells about the first one.
func (p *progress) begin(total int) {
	p.start, p.last, p.done, p.total = time.Now(), time.Time{}, 0, total
}

// step tells about the next one, and how long all that are left take if they take as long as those before.
func (p *progress) step(format string, args ...any) {
	left := "?"
	if p.done > 0 {
		left = (time.Since(p.start) / time.Duration(p.done) * time.Duration(p.total-p.done)).Round(time.Second).String()
	}
	p.say("%s, %s left", fmt.Sprintf(format, args...), left)
	p.done++
}

// end clears the line.
func (p *progress) end() {
	if p.line {
		fmt.Fprint(p.w, "\r\033[K")
	}
}
