package nydusimage

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
)

// Level is the version of nydus-image whose command line and files this package has.
const Level = "2.4.4"

// Result is what a builder made, in the form of its --output-json. Lists are never null.
type Result struct {
	Version           string   `json:"version"`
	Bootstrap         string   `json:"bootstrap"`
	Blobs             []string `json:"blobs"`
	ExternalBootstrap string   `json:"external_bootstrap"`
	ExternalBlobs     []string `json:"external_blobs"`
	Trace             Trace    `json:"trace"`
	FSVersion         string   `json:"fs_version"`
	Compressor        string   `json:"compressor"`

	// BlobSize is the size of the blob that was made, in bytes.
	BlobSize int64 `json:"-"`
}

// Trace has figures of a run: seconds by stage, and counts.
type Trace struct {
	ConsumedTime     map[string]float64 `json:"consumed_time"`
	RegisteredEvents map[string]any     `json:"registered_events"`
}

func newResult(bootstrap string, blobs []string, c nydusblob.Compressor) *Result {
	if blobs == nil {
		blobs = []string{}
	}
	return &Result{Version: Level + "-lazuli", Bootstrap: bootstrap, Blobs: blobs, ExternalBlobs: []string{}, FSVersion: "6", Compressor: compressorName(c),
		Trace: Trace{ConsumedTime: map[string]float64{}, RegisteredEvents: map[string]any{}}}
}

// WriteJSON writes the result to a file.
func (r *Result) WriteJSON(path string) error {
	p, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("result: %w", err)
	}
	if err := os.WriteFile(path, p, 0o644); err != nil {
		return fmt.Errorf("result: %w", err)
	}
	return nil
}

// Print prints the result as nydus-image logs it.
func (r *Result) Print(w io.Writer) error {
	_, err := fmt.Fprintf(w, "meta blob path: %s\ndata blob size: 0x%x\ndata blobs: %s\n", r.Bootstrap, r.BlobSize, quoted(r.Blobs))
	return err
}

func quoted(list []string) string {
	p, _ := json.Marshal(list) // strings only
	return string(p)
}

// compressors are the codecs by their names on command lines.
var compressors = []struct {
	name  string
	codec nydusblob.Compressor
}{
	{"none", nydusblob.CompressorNone}, {"lz4_block", nydusblob.CompressorLZ4}, {"gzip", nydusblob.CompressorGzip}, {"zstd", nydusblob.CompressorZstd},
}

func compressorName(c nydusblob.Compressor) string {
	for _, k := range compressors {
		if k.codec == c {
			return k.name
		}
	}
	return c.String()
}
