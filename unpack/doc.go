// Package unpack writes the files of an image to a directory or as one tar, whatever the image's format.
//
// It goes through files in the order in which their content is stored, so that every blob is read once, forward.
package unpack
