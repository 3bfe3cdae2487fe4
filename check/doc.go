// Package check proves that images are what they should be: that every stored byte is right by its digest, and that two
// images hold the same files. It takes nothing on trust from a converter: both images are read by their formats' readers, and
// contents are compared byte by byte through the lazy path.
package check
