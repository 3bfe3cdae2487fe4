package overlaybd

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/overlaybd/zfile"
)

// A recorded trace, as overlaybd's daemon writes it: which bytes of the layers a container read, in that order.
//
//	header  0 u32 magic | 8 u64 bytes of the records | 16 u32 CRC-32C of them, without inversion
//	record  0 'R' | 4 u32 layer, from 0 at the bottom | 8 u64 bytes | 16 i64 offset in the layer's LSMT file
const (
	traceMagic  = 0xc2ef1820
	traceHeader = 24
	traceRecord = 24
	// maxReplay is the longest read that the reference replays.
	maxReplay = 1 << 20
)

// maxTrace bounds a list of paths, as the reference's reader does.
const maxTrace = 64 << 10

// maxRecorded bounds a recorded trace.
const maxRecorded = 64 << 20

// CheckTrace says what is wrong with a recorded trace. layers is the number of the image's layers; 0 where it is not known.
func CheckTrace(p []byte, layers int) error {
	le := binary.LittleEndian
	if len(p) < traceHeader || len(p) > maxRecorded || le.Uint32(p) != traceMagic {
		return fmt.Errorf("recorded trace of %d bytes: it does not begin as one: %w", len(p), blob.ErrCorrupt)
	}
	records := p[traceHeader:]
	if le.Uint64(p[8:]) != uint64(len(records)) || len(records)%traceRecord != 0 || le.Uint32(p[16:]) != zfile.CRC(0, records) {
		return fmt.Errorf("recorded trace: its size or checksum is wrong: %w", blob.ErrCorrupt)
	}
	for i := 0; len(records) > 0; i, records = i+1, records[traceRecord:] {
		layer, n, off := le.Uint32(records[4:]), le.Uint64(records[8:]), int64(le.Uint64(records[16:]))
		if records[0] != 'R' || layers > 0 && int64(layer) >= int64(layers) || n > maxReplay || off < 0 {
			return fmt.Errorf("recorded trace: record %d: %d bytes at %d of layer %d: %w", i, n, off, layer, blob.ErrCorrupt)
		}
	}
	return nil
}

// accelerationLayer returns the layer that says what is read in advance: a tar with a recorded trace, or with a list of paths.
func (m *ImageLayers) accelerationLayer() (ocispec.Descriptor, []byte, error) {
	content := m.Trace
	if content == nil {
		var list strings.Builder
		for _, p := range m.Prefetch {
			list.WriteString("/" + strings.TrimPrefix(p, "/") + "\n")
		}
		if list.Len() > maxTrace {
			return ocispec.Descriptor{}, nil, fmt.Errorf("list of paths with %d bytes, readers take %d: %w", list.Len(), maxTrace, blob.ErrUnsupported)
		}
		content = []byte(list.String())
	} else if err := CheckTrace(content, len(m.descs)); err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	var out bytes.Buffer
	t := tar.NewWriter(&out)
	err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "trace", Mode: 0o444, Size: int64(len(content)), Format: tar.FormatUSTAR})
	if err == nil {
		_, err = t.Write(content)
	}
	if err == nil {
		err = t.Close()
	}
	if err != nil {
		return ocispec.Descriptor{}, nil, fmt.Errorf("trace: %w", err)
	}
	desc := formats.DigestOf("", out.Bytes())
	desc.Annotations = map[string]string{
		AnnotationVersion: VersionNative, AnnotationDigest: desc.Digest.String(), AnnotationSize: strconv.FormatInt(desc.Size, 10),
		AnnotationAcceleration: yes, AnnotationFSType: string(m.FSType),
	}
	return desc, out.Bytes(), nil
}
