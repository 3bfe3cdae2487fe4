// Package daemon is a BuildKit daemon made of BuildKit's own packages, whose workers may be wrapped.
//
// It takes buildkitd's configuration ([config.Config], the same file) and serves the same API: BuildKit's program itself is a package
// main and cannot be imported. What it does beyond buildkitd is decided by [Options].WrapWorker alone.
//
// BuildKit keeps a few settings in variables of its packages (log level, trace recorder, limits of registries): [Run] sets them, so a
// process has one daemon. Linux only.
package daemon
