// Package registryproxy stands before a registry and converts what is pushed through it.
//
// Builders push to the proxy as to the registry itself: requests and answers go through as they are, credentials included, so that what
// arrives in the registry is the user's image with the user's digests. When a manifest was pushed under a tag, the rules say what is made
// of it: an image under another tag, a referrer, or an index. That is done behind the user's back, so to speak, unless the request asks
// for an answer after it (see [HeaderConvert]).
//
// The proxy keeps nothing: what it had to do and has not done when it ends is logged, and done by pushing once more.
package registryproxy
