// Package image opens what a reference names: it finds the manifest for the platform, recognises its format, and gives the
// files and their bytes. It is what every command that looks at images begins with.
package image
