package disk

import "github.com/lazuli-project/lazuli/tree"

// TypeDir is the [FileType] of directories.
const TypeDir = 2

// FileType returns what the directories of ext4 and EROFS say of a node with that mode; 0 where there is no such type.
func FileType(mode uint32) uint8 {
	switch mode & tree.TypeMask {
	case tree.TypeRegular:
		return 1
	case tree.TypeDir:
		return TypeDir
	case tree.TypeChar:
		return 3
	case tree.TypeBlock:
		return 4
	case tree.TypeFIFO:
		return 5
	case tree.TypeSocket:
		return 6
	case tree.TypeSymlink:
		return 7
	}
	return 0
}
