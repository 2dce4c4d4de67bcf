// Package binding is the binding cache as pure data.
package binding
