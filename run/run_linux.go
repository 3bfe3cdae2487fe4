package run

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/fetch"
	"github.com/lazuli-project/lazuli/mount"
	"github.com/lazuli-project/lazuli/tree"
)

// ErrNoRuntime means: there is no runc.
var ErrNoRuntime = errors.New("runc is not installed")

// maxAccounts is how large /etc/passwd and /etc/group may be, in bytes.
const maxAccounts = 4 << 20

// Options of a container. The zero value runs what the image says.
type Options struct {
	Command []string // in place of the image's Cmd
	Env     []string // in addition to the image's, NAME=VALUE
	// Mount says how the image is mounted. It is always writable.
	Mount mount.Options
	// Runtime is the runtime's program; "" means runc in the path.
	Runtime string
	// Terminal gives the container a terminal, which Stdin and Stdout must be.
	Terminal bool
	Stdin    io.Reader // nil for nothing, as for the others
	Stdout   io.Writer
	Stderr   io.Writer
	// FirstOutput makes Result.FirstOutput known, for which standard output goes through a pipe.
	FirstOutput bool
	// Signals are passed on to the container. The channel is not closed.
	Signals <-chan os.Signal
}

// Result is what became of a container.
type Result struct {
	ExitCode    int
	Mounted     time.Time // when the image was mounted
	FirstOutput time.Time // zero where there was none, or it is not known
	Ended       time.Time
	Mode        mount.Mode
	Reason      error // why the mode is not EROFS; see [mount.Mounted]
}

// Run runs a container of the image until its process ends, and leaves nothing behind. ctx bounds the start alone: a running
// container is ended by signals.
func Run(ctx context.Context, im *fetch.Image, config ocispec.ImageConfig, opt Options) (_ *Result, err error) {
	runtime := opt.Runtime
	if runtime == "" {
		runtime = "runc"
	}
	if runtime, err = exec.LookPath(runtime); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoRuntime, err)
	}
	dir, err := os.MkdirTemp(opt.Mount.TempDir, "lazuli-run-")
	if err != nil {
		return nil, fmt.Errorf("run: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	root := filepath.Join(dir, "rootfs")
	if err := os.Mkdir(root, 0o755); err != nil {
		return nil, fmt.Errorf("run: %w", err)
	}
	id := filepath.Base(dir)
	b := bundle{
		root: root, hostname: id, config: config, command: opt.Command, env: opt.Env, terminal: opt.Terminal,
		binds: existing("/etc/resolv.conf", "/etc/hosts"),
	}
	if b.passwd, err = readAccounts(ctx, im, "/etc/passwd"); err != nil {
		return nil, err
	}
	if b.group, err = readAccounts(ctx, im, "/etc/group"); err != nil {
		return nil, err
	}
	spec, err := b.spec()
	if err != nil {
		return nil, err
	}
	p, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("run: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), p, 0o600); err != nil {
		return nil, fmt.Errorf("run: %w", err)
	}
	mo := opt.Mount
	mo.Writable, mo.TempDir = true, dir
	m, err := mount.New(ctx, im, root, mo)
	if err != nil {
		return nil, err
	}
	res := &Result{Mounted: time.Now(), Mode: m.Mode, Reason: m.Reason}
	defer func() { err = errors.Join(err, m.Close()) }()
	args := []string{"--root", filepath.Join(dir, "state")}
	if err := res.start(runtime, append(args, "run", "--bundle", dir, id), opt); err != nil {
		return nil, err
	}
	// A runtime that was killed itself leaves the container behind.
	if _, err := os.Stat(filepath.Join(dir, "state", id)); err == nil {
		err := exec.CommandContext(context.WithoutCancel(ctx), runtime, append(args, "delete", "--force", id)...).Run()
		if err != nil {
			return nil, fmt.Errorf("delete container %s: %w", id, err)
		}
	}
	return res, nil
}

// existing returns those of the files that exist on the host.
func existing(files ...string) []string {
	var list []string
	for _, f := range files {
		if _, err := os.Stat(f); err == nil {
			list = append(list, f)
		}
	}
	return list
}

// readAccounts reads a file of accounts of the image; "" if it has none.
func readAccounts(ctx context.Context, im *fetch.Image, path string) (string, error) {
	n, err := im.Tree.Resolve(path)
	if errors.Is(err, tree.ErrNoEntry) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("image: %w", err)
	}
	if !n.IsRegular() || n.Size > maxAccounts {
		return "", fmt.Errorf("image: %s is no file, or of more than %d bytes: %w", path, maxAccounts, blob.ErrUnsupported)
	}
	p := make([]byte, n.Size)
	if _, err := im.ReadAt(ctx, n, p, 0, blob.Demand); err != nil {
		return "", fmt.Errorf("image: read %s: %w", path, err)
	}
	return string(p), nil
}

// start runs the runtime to its end.
func (res *Result) start(runtime string, args []string, opt Options) error {
	cmd := exec.Command(runtime, args...) //nolint:noctx // it is told by signals, which it hands on
	cmd.Stdin, cmd.Stdout, cmd.Stderr = opt.Stdin, opt.Stdout, opt.Stderr
	if opt.FirstOutput {
		cmd.Stdout = &firstOutput{w: opt.Stdout, at: &res.FirstOutput}
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", runtime, err)
	}
	ended := make(chan struct{})
	var forwarding sync.WaitGroup
	forwarding.Go(func() {
		for {
			select {
			case s := <-opt.Signals:
				_ = cmd.Process.Signal(s) // it may have ended just now
			case <-ended:
				return
			}
		}
	})
	err := cmd.Wait()
	close(ended)
	forwarding.Wait()
	res.Ended = time.Now()
	res.ExitCode = cmd.ProcessState.ExitCode()
	var exit *exec.ExitError
	switch {
	case err != nil && !errors.As(err, &exit):
		return fmt.Errorf("%s: %w", runtime, err)
	case res.ExitCode < 0:
		return fmt.Errorf("%s: %s", runtime, cmd.ProcessState)
	}
	return nil
}

// firstOutput passes output on and notes when it began.
type firstOutput struct {
	w  io.Writer // nil for none
	at *time.Time
}

func (f *firstOutput) Write(p []byte) (int, error) {
	if f.at.IsZero() {
		*f.at = time.Now()
	}
	if f.w == nil {
		return len(p), nil
	}
	return f.w.Write(p)
}
