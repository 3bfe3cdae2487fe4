package formatstest

import (
	"testing"

	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/internal/imagetest"
)

// Format is what is tested.
type Format struct {
	// Writer returns a new writer that uses the given cores. Every call returns one with the same options.
	Writer func(tb testing.TB, cpu *formats.CPU) formats.Writer
	Reader formats.Reader
	// Pack stores the layers of source images; nil leaves them as they are.
	Pack func(tb testing.TB, tar []byte) imagetest.Layer
	// Chunk is the size in bytes at whose multiples the writer cuts content; files get sizes around it. 0 means 4096.
	Chunk int
	// Large adds a file of 8 GiB, which takes some seconds where chunks are large and too long where they are not.
	Large bool
	// Whole is up to how many bytes an object is damaged at every byte, and not at samples. 0 means 2 KiB.
	Whole int
	// Samples is at how many places, about, a larger object is damaged between its ends. 0 means 512.
	Samples int
	// OnlyFilesLinked says that hard links of anything but regular files become nodes of their own.
	OnlyFilesLinked bool
	// OldestTime and LatestTime bound the times that the format can say, in seconds since 1970: files from before and after get
	// these. 0 means that there is no bound.
	OldestTime, LatestTime int64
	// SmallXattrs says that the format has room for some KiB of extended attributes, and refuses files with more.
	SmallXattrs bool
	// MaxAlloc is how many bytes opening and reading a damaged image of some KiB may allocate, all in all. 0 means 64 MiB.
	MaxAlloc int64
}

func (f *Format) setDefaults() {
	if f.Chunk == 0 {
		f.Chunk = 4096
	}
	if f.Whole == 0 {
		f.Whole = 2 << 10
	}
	if f.Samples == 0 {
		f.Samples = 512
	}
	if f.Pack == nil {
		f.Pack = func(_ testing.TB, tar []byte) imagetest.Layer { return imagetest.Plain(tar) }
	}
	if f.MaxAlloc == 0 {
		f.MaxAlloc = 64 << 20
	}
}

// Run runs all tests of a format. It may not be called by a test that is parallel: memory is measured.
func Run(t *testing.T, f Format) {
	f.setDefaults()
	t.Run("damage", f.testDamage)
	t.Run("failures", f.testFailures)
	t.Run("generated", f.testGenerated)
	t.Run("cases", f.testCases)
	if f.Large && !testing.Short() {
		t.Run("large file", f.testLargeFile)
	}
	t.Run("same bytes", f.testSameBytes)
	t.Run("reopen", f.testReopen)
}
