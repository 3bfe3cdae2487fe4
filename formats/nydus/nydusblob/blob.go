package nydusblob

// Blob is a data blob as far as bootstraps need it.
type Blob struct {
	Info    Info
	Table   *Table
	Digests Digests
}
