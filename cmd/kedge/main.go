// Command kedge keeps a host's addresses still while it moves: the daemon, and everything to look into it.
//
// Exit status: 0 done, 1 failed, 2 wrong use or wrong configuration.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"kedge/internal/config"
)

// version is set by the build.
var version = "unknown"

// Exit codes.
const (
	exitFailed = 1
	exitUsage  = 2
)

// grammar is the command line.
type grammar struct {
	Output string `short:"o" enum:"text,json" default:"text" help:"Form of the answer: text or json."`

	Run      runCmd      `cmd:"" help:"Run the daemon of a config file."`
	Check    checkCmd    `cmd:"" help:"Validate config files, together if they belong together, and say what this machine can do."`
	Status   statusCmd   `cmd:"" help:"Show what a daemon is and how it does."`
	Bindings bindingsCmd `cmd:"" help:"List bindings."`
	Explain  explainCmd  `cmd:"" help:"Say why the bindings of a host are as they are, and why its last requests were refused."`
	Events   eventsCmd   `cmd:"" help:"Show what happened, and what happens."`
	Attach   attachCmd   `cmd:"" help:"Tell a gateway that a host is on an access link."`
	Detach   detachCmd   `cmd:"" help:"Tell a gateway that a host left an access link."`
	Roam     roamCmd     `cmd:"" help:"Tell a mobile node which link to prefer, and to try again now whatever it waits for."`
	Revoke   revokeCmd   `cmd:"" help:"Have an anchor end the sessions of a host and tell its gateways."`
	Switch   switchCmd   `cmd:"" help:"Have an anchor send its mobile nodes to other home agents, before it ends or to share load."`
	Stop     stopCmd     `cmd:"" help:"End a daemon. A mobile node deregisters, and takes back what it has set on this machine."`
	Keys     keysCmd     `cmd:"" help:"Make a pair of key files for two machines, and show what to write into their config files."`
	Lab      labCmd      `cmd:"" help:"Build whole networks on this machine, with hosts that roam, and see what happens."`
	Bench    benchCmd    `cmd:"" help:"Measure on this machine."`
	Version  versionCmd  `cmd:"" help:"Show the version."`
}

// env is what commands see of the world.
type env struct {
	ctx            context.Context
	stdout, stderr io.Writer
	json           bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// cli runs one command line and gives its exit status.
func cli(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var g grammar
	helped := false
	parser, err := kong.New(&g, kong.Name("kedge"), kong.Description("Keeps the IPv4 and IPv6 addresses of hosts still while they move: Dual-stack Mobile IPv6 and Proxy Mobile IPv6."),
		kong.Writers(stdout, stderr), kong.Exit(func(int) { helped = true }), kong.ConfigureHelp(kong.HelpOptions{Compact: true, Tree: true}),
		kong.ShortUsageOnError())
	if err != nil {
		fmt.Fprintln(stderr, "kedge:", err) // a fault of the grammar, found by any test
		return exitUsage
	}
	k, err := parser.Parse(args)
	if helped {
		return 0
	}
	if err != nil {
		fmt.Fprintf(stderr, "kedge: %v\nsee kedge --help\n", err)
		return exitUsage
	}
	e := &env{ctx: ctx, stdout: stdout, stderr: stderr, json: g.Output == "json"}
	if err := k.Run(e); err != nil {
		return e.fail(err)
	}
	return 0
}

// errShown ends a command whose errors were written already.
type errShown int

func (e errShown) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// usageError is a wrong use that the grammar cannot see.
type usageError struct{ error }

// fail writes an error and gives the exit status.
func (e *env) fail(err error) int {
	var shown errShown
	if errors.As(err, &shown) {
		return int(shown)
	}
	code := exitFailed
	var use usageError
	var bad config.Errors
	if errors.As(err, &use) || errors.As(err, &bad) {
		code = exitUsage
	}
	if e.json {
		_ = e.print(map[string]any{"error": err.Error()})
	} else {
		fmt.Fprintf(e.stderr, "kedge: %v\n", err)
	}
	return code
}

// print writes a value as JSON.
func (e *env) print(v any) error {
	enc := json.NewEncoder(e.stdout)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

type versionCmd struct{}

// Run shows the version.
func (c *versionCmd) Run(e *env) error {
	if e.json {
		return e.print(map[string]string{"version": version})
	}
	_, err := fmt.Fprintln(e.stdout, "kedge", version)
	return err
}

type runCmd struct {
	Config string `arg:"" help:"Config file."`
}

// Run runs the daemon until a signal.
func (c *runCmd) Run(e *env) error {
	cfg, warnings, err := config.Load(c.Config)
	if err != nil {
		var bad config.Errors
		if errors.As(err, &bad) || errors.Is(err, os.ErrNotExist) {
			return usageError{err}
		}
		return err
	}
	err = runDaemon(e.ctx, cfg, warnings)
	if errors.Is(err, os.ErrPermission) && !errors.As(err, new(config.Errors)) {
		need := "CAP_NET_ADMIN and CAP_NET_RAW"
		if cfg.Dataplane.Kind == config.PlaneEBPF {
			need = "CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF and CAP_PERFMON"
		}
		err = fmt.Errorf("%w; run as root, or with %s: \"kedge check --here %s\" says what is missing", err, need, c.Config)
	}
	return err
}
