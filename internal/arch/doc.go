// Package arch holds the rules of the project's structure as tests: who may import whom, what a machine must not touch,
// that every package says what it is. The table in the test gives the reason of each rule.
package arch
