// Package channel is what the host and the agent in a guest kernel say to each other: one JSON value a line, on a serial line.
package channel

// Request asks the agent for one thing.
type Request struct {
	ID    uint64   `json:"id"`             // chosen by the host; Kill names that of the command
	Argv  []string `json:"argv,omitempty"` // run a command
	Stdin []byte   `json:"stdin,omitempty"`
	Load  []string `json:"load,omitempty"` // load kernel modules, with all that they need
	Kill  bool     `json:"kill,omitempty"` // end a command and its children
}

// Answer is a piece of a command's output, standard error included, or the end of what was asked for.
type Answer struct {
	ID   uint64 `json:"id"` // 0: the agent is there
	Out  []byte `json:"out,omitempty"`
	Done bool   `json:"done,omitempty"`
	Code int    `json:"code,omitempty"` // exit status; -1 with Err
	Err  string `json:"err,omitempty"`
}
