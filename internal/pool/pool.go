// Package pool hands out home addresses and home network prefixes and never one of them twice.
package pool
