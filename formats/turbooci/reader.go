package turbooci

import (
	"context"

	"github.com/opencontainers/go-digest"

	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/overlaybd"
)

// Reader reads images of turboOCI, also such that have native layers of overlaybd between.
type Reader struct{}

var (
	_ formats.Reader  = Reader{}
	_ formats.Stacked = Reader{}
)

// Name implements [formats.Reader].
func (Reader) Name() string { return Name }

// Recognize implements [formats.Reader].
func (Reader) Recognize(m *formats.Manifest) bool {
	return overlaybd.IsDisk(m) && overlaybd.HasTurbo(m)
}

// NeededObjects implements [formats.ObjectNeeder]: the layers that the image refers to.
func (Reader) NeededObjects(m *formats.Manifest) []digest.Digest { return overlaybd.Targets(m) }

// Stacked implements [formats.Stacked].
func (Reader) Stacked() bool { return true }

// Open implements [formats.Reader].
func (Reader) Open(ctx context.Context, m *formats.Manifest, s formats.Sources) (*formats.Image, error) {
	return overlaybd.Open(ctx, Name, m, s)
}
