package mount

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Entry is a line of the mount table.
type Entry struct {
	ID     uint64
	Dir    string
	Type   string // such as "erofs", "fuse.lazuli", "overlay"
	Source string
}

// tableFile is the mount table of this process's namespace.
const tableFile = "/proc/self/mountinfo"

// At returns the topmost mount on a directory, or false where nothing is mounted on it.
func At(dir string) (Entry, bool, error) {
	f, err := os.Open(tableFile)
	if err != nil {
		return Entry{}, false, fmt.Errorf("mount table: %w", err)
	}
	defer f.Close() // only read from
	list, err := readTable(f)
	if err != nil {
		return Entry{}, false, err
	}
	for i := len(list) - 1; i >= 0; i-- {
		if list[i].Dir == dir {
			return list[i], true, nil
		}
	}
	return Entry{}, false, nil
}

// readTable parses a mount table: see proc_pid_mountinfo(5).
func readTable(r io.Reader) ([]Entry, error) {
	text, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("mount table: %w", err)
	}
	var list []Entry
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 10 {
			continue
		}
		id, err := strconv.ParseUint(f[0], 10, 64)
		if err != nil {
			continue
		}
		e := Entry{ID: id, Dir: unescape(f[4])}
		for i := 6; i+2 < len(f); i++ { // behind any number of optional fields
			if f[i] == "-" {
				e.Type, e.Source = f[i+1], unescape(f[i+2])
				break
			}
		}
		list = append(list, e)
	}
	return list, nil
}

// unescape undoes the table's octal escapes of white space and backslashes.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// mountID returns the id of the topmost mount on a directory.
func mountID(dir string) (uint64, error) {
	e, ok, err := At(dir)
	if err != nil {
		return 0, err
	}
	if !ok {
		return 0, fmt.Errorf("%s is not in the mount table", dir)
	}
	return e.ID, nil
}

// waitGone waits until no mount has the id.
func waitGone(id uint64) error {
	fd, err := unix.Open(tableFile, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("mount table: %w", err)
	}
	defer unix.Close(fd) // only read from
	for {
		if _, err := unix.Seek(fd, 0, io.SeekStart); err != nil {
			return fmt.Errorf("mount table: %w", err)
		}
		list, err := readTable(descriptor(fd))
		if err != nil {
			return err
		}
		there := false
		for _, e := range list {
			there = there || e.ID == id
		}
		if !there {
			return nil
		}
		// The kernel tells of each change of the table.
		_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}}, -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("mount table: %w", err)
		}
	}
}

// descriptor reads from a file descriptor that Go's poller shall not know: it would take the events.
type descriptor int

func (d descriptor) Read(p []byte) (int, error) {
	n, err := unix.Read(int(d), p)
	if err == nil && n == 0 {
		return 0, io.EOF
	}
	return max(n, 0), err
}

// Unmount takes the topmost mount on a directory away. If it is busy and lazy is set, it disappears now and ends with its last user;
// without lazy that is unix.EBUSY. Only root may do it; mounts of ordinary users are unmounted by fusermount.
func Unmount(dir string, lazy bool) error {
	err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW)
	if lazy && errors.Is(err, unix.EBUSY) {
		err = unix.Unmount(dir, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return nil
}
