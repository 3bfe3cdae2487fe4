// Package architecture holds tests that keep the house in order: which room may import which, and what only some rooms may do.
// docs/architecture.md says why.
package architecture
