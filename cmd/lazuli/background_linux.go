package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/lazuli-project/lazuli/mount"
)

// detach runs this command again in the background, in a session of its own, and waits until the image is mounted or it failed.
func (a *app) detach(dir string) error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("detach: %w", err)
	}
	name, err := mountFile(dir, ".log")
	if err != nil {
		return err
	}
	logFile, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("detach: %w", err)
	}
	defer closeQuietly(logFile)
	ready, tell, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("detach: %w", err)
	}
	defer closeQuietly(ready)
	cmd := exec.Command(exe, append([]string{"--ready-fd=3"}, os.Args[1:]...)...) //nolint:noctx // outlives this process
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = logFile, logFile, []*os.File{tell}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	closeQuietly(tell)
	if err != nil {
		return fmt.Errorf("detach: %w", err)
	}
	said, err := io.ReadAll(io.LimitReader(ready, 100))
	if err == nil && string(said) == "ready\n" {
		return cmd.Process.Release()
	}
	err = cmd.Wait()
	if _, err := logFile.Seek(0, io.SeekStart); err == nil {
		_, _ = io.Copy(a.stderr, logFile)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		return &exitError{exit.ExitCode()}
	}
	return fmt.Errorf("the background process ended before the image was mounted: %w; its log is %s", err, name)
}

// mountFile returns the path of a file of the user's state about the mount on a directory.
func mountFile(dir, suffix string) (string, error) {
	dir, err := realDir(dir)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(dir))
	path, ok := stateFile(filepath.Join("mounts", hex.EncodeToString(sum[:12])+suffix))
	if !ok {
		return "", errors.New("no home directory, and XDG_STATE_HOME is not set: nowhere to note mounts")
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", err
	}
	return path, nil
}

// mountState is a file that tells "lazuli umount" about a mount. It is locked for as long as the mount's process lives.
type mountState struct {
	Image   string `json:"image"`
	Dir     string `json:"dir"`
	Mode    string `json:"mode"`
	PID     int    `json:"pid"`
	TempDir string `json:"temp_dir,omitempty"`

	file *os.File
}

func writeMountState(m *mount.Mounted, image string) (*mountState, error) {
	path, err := mountFile(m.Dir, ".json")
	if err != nil {
		return nil, err
	}
	s := &mountState{Image: image, Dir: m.Dir, Mode: string(m.Mode), PID: os.Getpid(), TempDir: m.TempDir}
	p, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	// A new file each time: another mount on the same directory below this one keeps its lock.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if s.file, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
		return nil, err
	}
	_, err = s.file.Write(p)
	if err = errors.Join(err, unix.Flock(int(s.file.Fd()), unix.LOCK_EX)); err != nil {
		return nil, errors.Join(fmt.Errorf("note the mount in %s: %w", path, err), s.file.Close())
	}
	return s, nil
}

// remove removes the file, unless another mount has taken its name, and ends the lock.
func (s *mountState) remove() {
	mine, err1 := s.file.Stat()
	there, err2 := os.Stat(s.file.Name())
	if err1 == nil && err2 == nil && os.SameFile(mine, there) {
		_ = os.Remove(s.file.Name())
	}
	closeQuietly(s.file)
}

// openMountState opens what is known about the mount on a directory; nil if nothing is.
func openMountState(dir string) (*mountState, error) {
	path, err := mountFile(dir, ".json")
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil //nolint:nilnil // as documented
	}
	if err != nil {
		return nil, err
	}
	s := &mountState{file: f}
	if err := json.NewDecoder(io.LimitReader(f, 64<<10)).Decode(s); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	return s, nil
}
