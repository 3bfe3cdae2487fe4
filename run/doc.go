// Package run starts a container from an image, to try it without containerd: it makes an OCI runtime bundle of the image's
// configuration and a mounted root file system, and runs it by runc.
//
// The container has namespaces of its own but for the network, which is the host's, so that nothing has to be set up; no limits
// but Docker's default capabilities; and what it changes is lost at its end.
package run
