// Package registrytest is a container registry in the process, for tests and for the demonstration.
//
// [New] returns an http.Handler: manifests, tags and referrers are those of go-containerregistry's registry; blobs,
// uploads in pieces, mounts and ranges are done here, in memory or in a directory. It can ask for tokens, redirect
// blobs to signed URLs that run out, limit the bytes per second, and do wrong what real registries do wrong:
// see [Options] and [Fault].
package registrytest
