package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	diffapi "github.com/containerd/containerd/api/services/diff/v1"
	contentproxy "github.com/containerd/containerd/v2/core/content/proxy"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/lazuli-project/lazuli/catalog"
	"github.com/lazuli-project/lazuli/containerd"
	"github.com/lazuli-project/lazuli/containerd/differ"
	"github.com/lazuli-project/lazuli/store"
)

// differGrace is how long layers may go on after the end was asked for.
const differGrace = 30 * time.Second

type differFlags struct {
	address, logLevel, tempDir string
	registries                 []string
	store                      storeFlags
}

func (a *app) differCommand() *cobra.Command {
	var f differFlags
	cmd := &cobra.Command{
		Use:   "differ [flags]",
		Short: "Let containerd unpack images of all formats with its own snapshotters",
		Long: `Run beside containerd, as one of its proxy plugins, and unpack the layers that it pulls: those of lazy-loading images, too, so
that a containerd without a snapshotter for these runs the images all the same. They are downloaded as a whole then, as any image.

containerd's config.toml needs
  [proxy_plugins.lazuli]
    type = "diff"
    address = "/run/lazuli/differ.sock"
  [[plugins."io.containerd.transfer.v1.local".unpack_config]]
    platform = "linux/amd64"
    snapshotter = "overlayfs"
    differ = "lazuli"
  [plugins."io.containerd.service.v1.diff-service"]
    default = ["lazuli", "walking"]`,
		Example: `  lazuli differ &
  ctr image pull registry.example/app:v1-nydus
  # images of nydus-ref and turbo-oci refer to layers that containerd does not pull; these come from the registry, whose port
  # containerd does not tell
  lazuli differ --registry registry.example:5000`,
		Args: exactArgs(0),
	}
	fl := cmd.Flags()
	fl.StringVar(&f.address, "address", "/run/lazuli/differ.sock", "`SOCKET` to listen at")
	fl.StringSliceVar(&f.registries, "registry", nil, "`HOST:PORT`,... of registries that are not at the usual port")
	fl.StringVar(&f.tempDir, "temp-dir", "", "`DIR` for what is fetched while a layer is unpacked (the system's)")
	fl.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	f.store.add(fl, "", "registries")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return a.differ(cmd.Context(), &f) }
	return cmd
}

func (a *app) differ(ctx context.Context, f *differFlags) (err error) {
	log, err := a.logger(f.logLevel)
	if err != nil {
		return err
	}
	for _, r := range f.registries {
		if host, _, err := net.SplitHostPort(r); err != nil || host == "" {
			return usagef("--registry %s: no HOST:PORT", r)
		}
	}
	remote, err := a.storeOptions(&f.store)
	if err != nil {
		return err
	}
	opt := f.store.containerd.options()
	conn, err := containerd.Dial(ctx, opt.Address)
	if err != nil {
		return err
	}
	defer closeQuietly(conn)
	service := differ.NewServer(contentproxy.NewContentStore(conn), differ.Options{
		Readers: catalog.LazyReaders(), TempDir: f.tempDir, Registries: f.registries,
		OpenRemote: func(ctx context.Context, ref store.Ref) (store.Source, error) {
			return store.OpenSource(ctx, ref, remote)
		},
		OnApply: func(d differ.Applied) { logApplied(ctx, log, d) },
	})
	listener, err := listenSocket(ctx, f.address)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	diffapi.RegisterDiffServer(server, service)
	log.Info("ready", "address", f.address)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve at %s: %w", f.address, err)
	case <-ctx.Done():
	}
	timer := time.AfterFunc(differGrace, server.Stop)
	defer timer.Stop()
	server.GracefulStop()
	return <-served
}

func logApplied(ctx context.Context, log *slog.Logger, d differ.Applied) {
	level, attrs := slog.LevelInfo, []any{"namespace", d.Namespace, "layer", d.Layer.Digest, "format", d.Format, "bytes", d.Size, "seconds", d.Wall.Seconds()}
	if d.Err != nil {
		level, attrs = slog.LevelError, append(attrs, "err", d.Err)
	}
	log.Log(ctx, level, "layer", attrs...)
}

// listenSocket listens at a socket that only its owner may use. One that a killed process left is replaced.
func listenSocket(ctx context.Context, path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if st, err := os.Lstat(path); err == nil && st.Mode().Type() == fs.ModeSocket {
		if c, err := (&net.Dialer{}).DialContext(ctx, "unix", path); err == nil {
			return nil, errors.Join(fmt.Errorf("listen at %s: somebody else does already", path), c.Close())
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}
