// Package proxy stands before a BuildKit daemon, any of them, and gives it exporters for images that are read lazily.
//
// What clients and the daemon say to each other goes through as it is, whatever it is, with two exceptions. In a request to solve, outputs of
// our formats become images that the daemon pushes to a registry of the proxy's own (see [Staging]); when it has, these are converted and
// pushed to where the client wanted them, with the credentials of the proxy. And what the daemon tells about a build's progress goes on
// with that. The proxy depends on these two messages of BuildKit's API alone, so that it stands before daemons of other versions, too.
package proxy
