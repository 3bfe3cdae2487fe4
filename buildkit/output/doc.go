// Package output is what the keys of an output of one of our formats mean, and what belongs to an image that was converted from a build's
// plain image: attestations, and its place in an index. It is the same for the daemon of our own and for the proxy before others, and does
// nothing with BuildKit itself.
package output
