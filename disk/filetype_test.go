package disk_test

import (
	"testing"

	"github.com/lazuli-project/lazuli/disk"
	"github.com/lazuli-project/lazuli/tree"
)

// The numbers are those of Linux's directories, on the disk and in its calls.
func TestFileType(t *testing.T) {
	t.Parallel()
	for mode, want := range map[uint32]uint8{
		tree.TypeRegular | 0o4755: 1, tree.TypeDir | 0o1777: disk.TypeDir, tree.TypeChar: 3, tree.TypeBlock: 4, tree.TypeFIFO: 5, tree.TypeSocket: 6,
		tree.TypeSymlink | 0o777: 7, 0o644: 0,
	} {
		if got := disk.FileType(mode); got != want {
			t.Errorf("mode %o: %d, want %d", mode, got, want)
		}
	}
}
