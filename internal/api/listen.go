package api

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// AddRole adds a machine that came up after Listen; not after Run.
func (s *Server) AddRole(r Role) { s.cfg.Roles = append(s.cfg.Roles, r) }

// Secure says where the state of security associations comes from; not after Run.
func (s *Server) Secure(f func() []Association) { s.cfg.Security = f }

// Forward says where the state of data planes comes from; not after Run.
func (s *Server) Forward(f func() []Dataplane) { s.cfg.Dataplane = f }

// Close ends listening, and lets another daemon have the socket: call it when nothing of this one is left. A second call does
// nothing.
func (s *Server) Close() {
	s.hangUp()
	if s.lock != nil {
		s.lock.Close()
	}
}

// hangUp ends listening.
func (s *Server) hangUp() {
	for _, l := range []net.Listener{s.unix, s.tcp} {
		if l != nil {
			l.Close()
		}
	}
}

// lockOf is the file beside a socket whose lock a daemon holds as long as anything of it is left.
func lockOf(socket string) string { return socket + ".lock" }

// Ended waits until the daemon of this socket has let go of everything. Whoever may use the socket may ask.
func (c *Client) Ended(ctx context.Context) error {
	f, err := os.Open(lockOf(c.socket))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return fmt.Errorf("the daemon has not ended yet: %w", ctx.Err())
		}
	}
}

// listenUnix opens a socket that its group may use. Of two daemons that start at once, one gets the lock beside it; it ends with
// the process, however that ends.
func (s *Server) listenUnix() (net.Listener, error) {
	path := s.cfg.Socket
	busy := fmt.Errorf("socket %s: another daemon listens there: stop it, or write another path in api.socket", path)
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	if st, err := os.Lstat(path); err == nil && st.Mode()&os.ModeSocket == 0 {
		return nil, fmt.Errorf("socket %s: a file that is no socket is there: remove it, or write another path in api.socket", path)
	}
	var err error
	if s.lock, err = os.OpenFile(lockOf(path), os.O_CREATE|os.O_RDWR, 0o640); err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	if err := unix.Flock(int(s.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return nil, busy
	} else if err != nil {
		return nil, fmt.Errorf("socket: lock %s.lock: %w", path, err)
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil { // a program of somebody else
		c.Close()
		return nil, busy
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("stale socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	if err := os.Chmod(path, 0o660); err != nil {
		l.Close()
		return nil, fmt.Errorf("socket: %w", err)
	}
	return l, nil
}
