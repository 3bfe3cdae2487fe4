package erofs

import (
	"os"
	"path/filepath"
	"strconv"
)

// readAheadFiles lists the read-ahead settings of all EROFS mounts. Their names count mounts and cannot be derived from a
// mount's device number.
func readAheadFiles() map[string]bool {
	files, err := filepath.Glob("/sys/class/bdi/erofs-*/read_ahead_kb")
	if err != nil {
		return nil
	}
	set := make(map[string]bool, len(files))
	for _, f := range files {
		set[f] = true
	}
	return set
}

// setReadAhead sets the read-ahead of the mount that is there now and was not before. With two of them at once it is not
// known which is ours, and neither is touched: the setting only makes reads cheaper.
func setReadAhead(before map[string]bool, bytes int) {
	var fresh []string
	for f := range readAheadFiles() {
		if !before[f] {
			fresh = append(fresh, f)
		}
	}
	if len(fresh) == 1 {
		_ = os.WriteFile(fresh[0], []byte(strconv.Itoa(bytes>>10)), 0)
	}
}
