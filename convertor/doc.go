// Package convertor does what overlaybd's standalone converter of version 1.4 does beside converting, as far as no other package does
// it: its work directory with dumped manifests and layers, and a target that nothing is uploaded to. Converting is done by package
// convert, command lines are for cmd/lazuli. docs/overlaybd.md lists every flag.
package convertor
