// Package channel is what the host and the agent in a guest kernel say to each other. Answers are JSON values on a serial line. A request is a
// file of JSON in the directory that both see, and its number on the line: more than a few kilobytes at once get stuck on their way in.
package channel

import "fmt"

// File is the name of a request's file.
func File(number uint64) string { return fmt.Sprintf("request.%d", number) }

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
