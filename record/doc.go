// Package record remembers which layers were converted before, in a SQLite file, so that they are not converted again.
//
// It is a help and never the truth: whoever asks checks that the blob is still where it is needed. Several processes may use
// one file at the same time.
package record
